"""Data of `mixtures`: images beside ages and sites, films beside notes, two views of a retina."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._experiment_data import DEMO, photographs, read
from benchmarks.masked_reports import BANK, CIRCUMSTANCES, FINDINGS
from skmoecbm import ExpertFeatures, mask_terms
from skmoecbm.moe import TextTokenEncoder, TokenEncoder, TokenFeatures, TokenUnion

__all__ = ["Blocks", "Tokens", "covid", "ham10000", "retinamnist"]


@dataclass
class Blocks:
    """Blocks of columns.

    Attributes
    ----------
    X : ndarray of shape (n, Σp)
        A missing block is NaN.
    modalities : dict of str to slice
    concepts : ExpertFeatures
        What the concept classifiers see: the experts' similarities, and the table as a block.
    y, groups : ndarray of shape (n,)
    train, test : ndarray of int
    note : str
    """

    X: np.ndarray
    modalities: dict
    concepts: ExpertFeatures
    y: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    note: str


@dataclass
class Tokens:
    """Streams of tokens.

    Attributes
    ----------
    X : TokenFeatures
    y, groups : ndarray of shape (n,)
    parts : list of (train, test)
        Row numbers. Of several parts each row is judged once, by models that did not see it.
    note : str
    texts : ndarray of shape (n,) or None
        What the tokens of the last stream were made of, for models that read words.
    """

    X: TokenFeatures
    y: np.ndarray
    groups: np.ndarray
    parts: list
    note: str
    texts: np.ndarray | None = None


def ham10000(data, store):
    """Return `Blocks` of HAM10000: embeddings of both demo experts; age, sex and site."""
    found = read("ham10000", "lesion", data, backbones=DEMO, store=store)
    image = np.hstack([np.asarray(block.embeddings) for block in found.X.blocks]).astype(float)
    table = pd.read_csv(Path(data) / "ham10000" / "metadata.csv")
    known = (
        table["age"].notna() & ~table[["sex", "localization"]].eq("unknown").any(axis=1)
    ).values
    columns = pd.get_dummies(table[["sex", "localization"]], dtype=float)
    columns = columns.drop(columns=[name for name in columns if name.endswith("_unknown")])
    columns.insert(0, "age", table["age"])
    person = columns.to_numpy(dtype=float)
    person[~known] = np.nan
    width = image.shape[1]
    concepts = {b.name: (b.values(), list(b.concepts)) for b in found.X.blocks}
    concepts["person"] = (person, list(columns))
    return Blocks(
        np.hstack([image, person]),
        {"image": slice(0, width), "person": slice(width, None)},
        ExpertFeatures.from_similarities(concepts),
        found.y,
        found.groups,
        found.train,
        found.test,
        f"{found.note}; age, sex or site unknown, so that all three count as missing, in "
        f"{(~known).sum()} of {len(known)} rows",
    )


def retinamnist(data, store):
    """Return `Tokens` of RetinaMNIST: patches of one demo expert beside those of the other."""
    photos = photographs("retinamnist", data)
    union = TokenUnion([(name, TokenEncoder(name, cache_dir=store)) for name in DEMO])
    tokens = union.fit_transform([(image, image) for image in photos.images])
    train, test, note = photos.parts["official"]
    return Tokens(tokens, photos.y, photos.groups, [(train, test)], note)


def covid(data, store, folds):
    """Return `Tokens` of films and of notes in which the diagnosis and its traces are masked.

    Parameters
    ----------
    data : path
    store : path
    folds : splitter
        With ``split(X, y, groups)``; notes of a patient stay together.
    """
    folder = Path(data) / "covid_chestxray_notes"
    table = pd.read_csv(folder / "metadata.csv")
    table = table[table["finding"] != "todo"].reset_index(drop=True)
    notes = mask_terms(table["clinical_notes"], BANK, extra=FINDINGS + CIRCUMSTANCES)
    images = [str(folder / "images" / name) for name in table["image"]]
    image = TokenEncoder(DEMO[0], cache_dir=store).fit_transform(images)
    text = TextTokenEncoder(DEMO[0], cache_dir=store).fit_transform(list(notes))
    y = table["finding"].str.contains("COVID").to_numpy().astype(int)
    groups = table["patientid"].to_numpy()
    return Tokens(
        image.join(text),
        y,
        groups,
        list(folds.split(y, y, groups)),
        f"{len(y)} films with notes of {len(set(groups))} patients, {y.sum()} of COVID-19; "
        "findings, tests, places and treatments are masked in the notes",
        np.array(list(notes), dtype=object),
    )
