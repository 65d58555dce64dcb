"""Are concepts seen, and does it help: words, learned vectors and random ones on real images.

    python -m benchmarks.concepts_seen --data $SKMOECBM_TEST_DATA

derm7pt under MONET, a real medical model: its prompts, and vectors fitted to the seven-point
attributes, against those attributes. HAM10000 under the two demo experts: words of their lexicon
against the 3,075 annotated images, read with fair confidence only (the file has no legend), and
vectors learned from them. On both, melanoma against nevus by a classifier on as many probed,
worded and random vectors: vectors and classifier are fitted on the training part (of the
lesion-disjoint split of HAM10000, of derm7pt's own), scored on the validation part of the former
and the test part of the latter.
"""

import argparse
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    concept_presence,
    fit_concept_vectors,
    load_concepts,
)

EXPERTS = ("demo-general", "demo-structures")
# annotated code -> the word of the lexicon that comes nearest
WORDS = {
    "APC": "asymmetric shape",
    "BDG": "globules",
    "GP": "blue-gray color",
    "TRBL": "pigment network",
    "WLSA": "white center",
}
COLUMNS = ["concept", "score", "n", "n_present", "auroc", "auroc_low", "auroc_high"]
COLUMNS += ["average_precision", "prevalence"]
MONET_PAIRS = {
    "Blue": ("attr_blue_whitish_veil", ["present"]),
    "White": ("attr_regression_structures", ["white areas", "combinations"]),
    "Irregular": ("attr_pigmentation", ["diffuse irregular", "localized irregular"]),
    "Regular": ("attr_pigment_network", ["typical"]),
}


def derm7pt(folder):
    """Print what MONET sees of the seven-point attributes."""
    data = np.load(folder / "embeddings" / "derm7pt_monet.npz")
    names = [str(name) for name in data["concepts"]]
    features = ExpertFeatures.from_embeddings(
        {"monet": (data["X_monet"], data["txt_concept_monet"], names)}
    )
    truth = {name: np.isin(data[key], values) for name, (key, values) in MONET_PAIRS.items()}
    # "Aal002bis" is a second picture of case "Aal002"
    cases = np.array([re.sub("[a-z]+$", "", name) for name in data["ids"].tolist()])
    table = concept_presence(
        None, features, truth, reference=data["txt_ref_monet"][0], groups=cases
    )
    print("derm7pt, MONET's prompts against the attribute that comes nearest")
    print(table[COLUMNS].round(3).to_string(index=False))
    attributes = {}
    for key in (k for k in data if k.startswith("attr_") and k != "attr_diagnosis"):
        for value in np.unique(data[key]):
            if value != "absent":
                attributes[f"{key[5:]}: {value}"] = data[key] == value
    vectors = fit_concept_vectors(None, features, attributes, groups=cases)
    print("derm7pt, vectors learned under MONET, out of fold")
    print(vectors.table[COLUMNS].round(3).to_string(index=False))
    print("dropped:", vectors.dropped)
    # the data set's own split, with the second pictures of a case where the first one is
    split = dict(zip(cases[::-1], data["split"][::-1].tolist(), strict=True))
    split = np.array([split[case] for case in cases])
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    vectors = fit_concept_vectors(
        None, features[train], {k: v[train] for k, v in attributes.items()}, groups=cases[train]
    )
    y = data["classes"][data["y"]]
    compare(
        {"monet": features.blocks[0]},
        {"monet": vectors.vectors},
        (y, "melanoma", "nevus"),
        (train, test),
        cases,
    )


def ham10000(folder):
    """Print what the demo experts see of the annotated concepts, and what it is worth."""
    folder = folder / "ham10000"
    table = pd.read_csv(folder / "dermoscopic_concepts.csv")
    parts = pd.read_csv(folder / "metadata.csv").set_index("image_id")
    table = table[table["image_id"].isin(parts.index)].reset_index(drop=True)
    paths = {path.stem: str(path) for path in sorted(folder.rglob("*.jpg"))}
    files = np.array([paths[name] for name in table["image_id"]])
    split = parts.loc[table["image_id"], "split_lesion"].to_numpy()
    lesions = table["lesion_id"].to_numpy(dtype=str)
    codes = table.columns[4:-1].tolist()
    annotations = table[codes].astype(float)
    train = np.flatnonzero(split == "train")
    test = np.flatnonzero(split == "val")
    bank = load_concepts("lesions")
    learned, encoded = {}, {}
    for name in EXPERTS:
        encoder = ConceptEncoder(name, bank, cache_dir=None)
        features = encoded[name] = encoder.fit_transform(files)
        known = {w: annotations[c] for c, w in WORDS.items() if w in encoder.bank_.texts}
        seen = concept_presence(None, features, known, groups=lesions)
        print(f"HAM10000, words under {name}, all {len(files)} annotated images")
        print(seen[COLUMNS].round(3).to_string(index=False))
        vectors = learned[name] = fit_concept_vectors(
            None, features[train], annotations.iloc[train], groups=lesions[train]
        )
        print(f"HAM10000, vectors learned under {name}, out of fold, {len(train)} images")
        print(vectors.table[COLUMNS].round(3).to_string(index=False))
        print("dropped:", vectors.dropped)
    y = table["dx"].to_numpy(dtype=str)
    compare(
        {name: encoded[name].blocks[0] for name in EXPERTS},
        {name: learned[name].vectors for name in EXPERTS},
        (y, "mel", "nv"),
        (train, test),
        lesions,
    )


def compare(blocks, probes, task, parts, groups):
    """Print a classifier on learned vectors, on the words and on random vectors, of equal number.

    Parameters
    ----------
    blocks : dict of str to ExpertBlock
    probes : dict of str to ndarray of shape (m, d)
    task : (labels of shape (n,), positive, negative)
    parts : (rows to fit, rows to score)
    groups : ndarray of shape (n,)
    """
    (y, positive, negative), (train, test) = task, parts
    texts = {name: block.texts for name, block in blocks.items()}
    sizes = {name: min(len(texts[name]), len(probes[name])) for name in blocks}
    print(f"{positive} against {negative}, {len(train)} images to fit, {len(test)} scored; {sizes}")
    rows = {}
    for kind in ("probed", "words", "random"):
        scores = []
        for draw in range(5):
            rng = np.random.default_rng(draw)
            experts = {}
            for name, block in blocks.items():
                pool = {"probed": probes[name], "words": texts[name]}.get(kind)
                pool = rng.normal(size=texts[name].shape) if pool is None else pool
                pick = rng.permutation(len(pool))[: sizes[name]]
                experts[name] = (block.embeddings, pool[pick], [f"c{j}" for j in pick])
            F = ExpertFeatures.from_embeddings(experts)
            head = {"class_weight": "balanced", "random_state": 0}
            one = ConceptBottleneckClassifier(**head)
            model = one if len(blocks) == 1 else GatedConceptBottleneckClassifier(**head)
            model.fit(F[train], y[train], groups=groups[train])
            proba = model.predict_proba(F[test])[:, list(model.classes_).index(positive)]
            scores.append(
                (
                    roc_auc_score(y[test] == positive, proba),
                    balanced_accuracy_score(y[test], model.predict(F[test])),
                )
            )
        rows[kind] = [*np.mean(scores, axis=0), *np.std(scores, axis=0)]
    columns = ["auroc", "balanced_accuracy", "auroc_sd", "balanced_accuracy_sd"]
    print(pd.DataFrame(rows, index=columns).T.round(3).to_string())


def main(argv=None):
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    derm7pt(options.data)
    ham10000(options.data)


if __name__ == "__main__":
    main()
