"""Bundled banks, and whatever else a user may call concepts."""

import os
from collections.abc import Mapping
from importlib import resources

from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._parsing import meant
from skmoecbm.concepts._readers import list_fields
from skmoecbm.exceptions import InputError

__all__ = ["as_bank", "list_concepts", "load_concepts"]


def as_bank(concepts):
    """Return the `ConceptBank` that `concepts` means.

    Parameters
    ----------
    concepts : ConceptBank, dict of class to phrases, list of phrases, str or PathLike
        A str is the name of a bundled bank, or a path that ends in ".json".

    Raises
    ------
    InputError
        If it is none of these, or a name is not bundled.
    FormatError
        If a file is not a bank.
    """
    if isinstance(concepts, ConceptBank):
        return concepts
    if isinstance(concepts, Mapping):
        return ConceptBank.from_dict(concepts)
    if isinstance(concepts, os.PathLike) or (
        isinstance(concepts, str) and concepts.lower().endswith(".json")
    ):
        return ConceptBank.from_json(concepts)
    if isinstance(concepts, str):
        return load_concepts(concepts)
    if isinstance(concepts, list | tuple):
        return ConceptBank(**list_fields(concepts, "custom"))
    raise InputError(
        "Concepts must be a ConceptBank, a dict of class -> phrases, a list of phrases, the name "
        f"of a bundled bank or a path to a .json file. Got {type(concepts).__name__} instead."
    )


def list_concepts():
    """Return the names of the bundled banks, a sorted list of str."""
    folder = resources.files("skmoecbm.concepts") / "banks"
    return sorted(one.name[:-5] for one in folder.iterdir() if one.name.endswith(".json"))


def load_concepts(name):
    """Return a bundled `ConceptBank` by name.

    Parameters
    ----------
    name : str

    Raises
    ------
    InputError
        If no bank has this name; the message says which is near, and lists those there are.

    Examples
    --------
    >>> from skmoecbm import load_concepts
    >>> load_concepts("lesions")
    ConceptBank('lesions', 25 concepts, 7 classes)
    """
    known = list_concepts()
    if name not in known:
        raise InputError(
            f"There is no bundled bank {name!r}; there are {known}.{meant(name, known)} A bank of "
            "your own is a dict, a list, or a path that ends in '.json'."
        )
    with resources.as_file(resources.files("skmoecbm.concepts") / "banks") as folder:
        return ConceptBank.from_json(folder / f"{name}.json")
