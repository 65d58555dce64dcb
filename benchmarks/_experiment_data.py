"""Data sets of `reproduce` and `peers`: photographs, labels, parts, and what experts see of them.

`photographs` is the one place that knows folders and files: it asks the functions of
`skmoecbm.datasets`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from skmoecbm import ConceptBank, ConceptEncoder, ExpertFeatures, load_concepts
from skmoecbm.backbones import load_backbone
from skmoecbm.datasets import fetch_covid_radiography, fetch_ham10000, fetch_medmnist
from skmoecbm.exceptions import InputError

__all__ = [
    "DEMO",
    "ROLES",
    "SPLITS",
    "Experiment",
    "Photographs",
    "bank_of",
    "encode",
    "photographs",
    "read",
]

# Of each data set its splits, the first one the fairer.
SPLITS = {
    "ham10000": ("lesion", "community"),
    "retinamnist": ("official",),
    "covid_radiography": ("official",),
}
ROLES = ("generalist", "specialist")
DEMO = ("demo-general", "demo-structures")


@dataclass
class Photographs:
    """Images, labels, and which rows train and which judge.

    Attributes
    ----------
    images : list of length n
        Whatever an encoder reads: paths, arrays.
    y : ndarray of shape (n,)
    groups : ndarray of shape (n,)
        Lesions; else each row is its own.
    parts : dict of str to (train, test, note)
        By split: two arrays of row numbers, and what a reader should know of them.
    """

    images: list
    y: np.ndarray
    groups: np.ndarray
    parts: dict


def photographs(name, data):
    """Return the `Photographs` of a data set.

    Parameters
    ----------
    name : str
        As in `SPLITS`.
    data : path or None
        A folder with "ham10000" in any layout that `fetch_ham10000` knows, "medmnist", and
        "covid_radiography", which is COVID-QU-Ex. None downloads the first two.
    """
    if name == "covid_radiography":
        return _covid(data)
    if name == "retinamnist":
        return _retinamnist(data)
    return _ham10000(data)


def _ham10000(data):
    root = None if data is None else Path(data) / "ham10000"
    found = fetch_ham10000(root)
    if "community" not in found.splits:  # LaBo's files, to be read or downloaded
        found = fetch_ham10000(root, split="community")
    lesions = pd.factorize(found.groups)[0]
    fair = found.splits.rows("lesion" if "lesion" in found.splits else "group")
    note = "no lesion on both sides"
    if "test" not in fair:
        note += (
            "; the test images of this split are not in the folder, so the validation part judges. "
            "Nothing is chosen on it"
        )
    community = found.splits.rows("community")
    train, test = community["train"], community["test"]
    shared = np.isin(lesions[test], lesions[train]).sum()
    return Photographs(
        list(found.images),
        found.metadata["dx"].to_numpy(dtype=str),
        lesions,
        {
            "lesion": (fair["train"], fair["test" if "test" in fair else "val"], note),
            "community": (
                train,
                test,
                f"the split of the published numbers, as far as its images are in the folder: "
                f"{shared} of its {len(test)} test images show a lesion that is trained on",
            ),
        },
    )


def _covid(data):
    found = fetch_covid_radiography(None if data is None else Path(data) / "covid_radiography")
    if "official" not in found.splits:
        raise InputError(
            "The tables of the sources are of COVID-QU-Ex, and this is another edition. Get "
            "anasmohammedtahir/covidqu from Kaggle."
        )
    rows = found.splits.rows("official")
    note = "patients are not named; each class comes from hospitals of its own"
    parts = {"official": (rows["train"], rows["test"], note)}
    return Photographs(list(found.images), found.target, np.arange(len(found.images)), parts)


def _retinamnist(data):
    found = fetch_medmnist("retinamnist", root=None if data is None else Path(data) / "medmnist")
    rows = found.splits.rows("official")
    note = "images of 28 x 28 pixels; the official validation part is not used"
    return Photographs(
        list(found.images),
        found.metadata["label"].to_numpy(dtype=int),
        np.arange(len(found.images)),
        {"official": (rows["train"], rows["test"], note)},
    )


@dataclass
class Experiment:
    """What two experts see of a data set under one split.

    Attributes
    ----------
    name, split, note : str
    X : ExpertFeatures of n rows
        Blocks "generalist" and "specialist", each with the concepts that its model knows.
    y, groups : ndarray of shape (n,)
    train, test : ndarray of int
    words : bool
        Whether the concepts were written for these classes; else they are generic directions.
    shared : dict of str to (X, T, concepts)
        By expert, with all concepts of the bank in both, also those that a model of a small
        lexicon does not know.
    incidence : ndarray of shape (m, C) or None
    class_keys : list of str or None
        Of `shared`.
    """

    name: str
    split: str
    note: str
    X: ExpertFeatures
    y: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    words: bool
    shared: dict = field(default_factory=dict)
    incidence: np.ndarray | None = None
    class_keys: list | None = None

    def lists(self, chosen):
        """Return features with the concepts `chosen` (expert -> positions in the bank)."""
        experts, incidence = {}, {}
        for name, (X, T, concepts) in self.shared.items():
            rows = np.asarray(chosen[name])
            experts[name] = (X, T[rows], [concepts[row] for row in rows])
            if self.incidence is not None:
                incidence[name] = self.incidence[rows]
        return ExpertFeatures.from_embeddings(
            experts, incidence=incidence or None, class_keys=self.class_keys
        )


def read(name, split, data, *, backbones, store, concepts=None):
    """Return the `Experiment` of a data set and a split.

    Parameters
    ----------
    name, split : str
        As in `SPLITS`.
    data : path
    backbones : (str, str)
        The generalist and the specialist, as `ConceptEncoder` takes them.
    store : path or "auto"
        Where embeddings are kept.
    concepts : str, default=None
        A bundled bank or a file; None is the data set's own, or the lesions' where a model of a
        small lexicon does not know half of it.
    """
    photos = photographs(name, data)
    bank = bank_of(name, backbones, concepts)
    blocks = [
        encode(photos.images, backbone, bank, store, role)
        for role, backbone in zip(ROLES, backbones, strict=True)
    ]
    meant = bank.match_labels(sorted({str(label) for label in photos.y}))
    words = all(key is not None for key in meant.values())
    shared = {}
    for block, backbone in zip(blocks, backbones, strict=True):
        shared[block.name] = (block.embeddings, _texts(backbone, bank), list(bank.texts))
    return Experiment(
        name,
        split,
        photos.parts[split][2],
        ExpertFeatures(blocks),
        photos.y,
        photos.groups,
        *photos.parts[split][:2],
        words,
        shared,
        bank.incidence if words else None,
        list(bank.class_keys) if words else None,
    )


def bank_of(name, backbones, concepts=None):
    """Return the bank for a data set and these models; parameters as of `read`."""
    if concepts is not None:
        from_file = concepts.endswith(".json")
        return ConceptBank.from_json(concepts) if from_file else load_concepts(concepts)
    own = load_concepts(name)
    lexicons = [load_backbone(backbone).lexicon for backbone in backbones]
    texts = {text.lower() for text in own.texts}
    known = [lexicon is None or len(lexicon & texts) > len(own) / 2 for lexicon in lexicons]
    return own if all(known) else load_concepts("lesions")


def encode(images, backbone, bank, store, role):
    """Return the block of one expert under the name of its role."""
    features = ConceptEncoder(backbone, bank, cache_dir=store).fit_transform(images)
    return replace(features.blocks[0], name=role)


def _texts(backbone, bank):
    """Return the embedding of each concept, of unknown words too, as the mean over prompts."""
    prompts = bank.templates or ("{}",)
    model = load_backbone(backbone)
    rows = [model.embed_texts([prompt.format(text) for text in bank.texts]) for prompt in prompts]
    mean = np.mean(rows, axis=0)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
