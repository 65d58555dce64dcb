"""A bank of concepts: phrases, the classes they were written for, where they come from."""

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skmoecbm.concepts._parsing import folded, read_json, sentences
from skmoecbm.exceptions import FormatError, InputError

__all__ = [
    "Concept",
    "ConceptBank",
    "ConceptClass",
    "Provenance",
    "as_bank",
    "list_concepts",
    "load_concepts",
]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, str_min_length=1
    )


class ConceptClass(_Part):
    """A class that concepts are written for.

    Attributes
    ----------
    key : str
        How the class is called in `Concept.classes` and, most often, in `y`.
    name : str
        The name whose embedding stands for the class; the key where none is given.
    synonyms : tuple of str
        Other spellings that labels may have.
    """

    key: str
    name: str
    synonyms: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_is_key(cls, data):
        return {"name": data["key"], **data} if isinstance(data, dict) and "key" in data else data


class Concept(_Part):
    """A phrase that can be seen in an image, with its other wordings.

    Attributes
    ----------
    text : str
        The phrase, and the name of the concept.
    facet : str or None
        What kind of thing it speaks of ("colour", "border").
    classes : tuple of str
        Keys of the classes it was written for; may be none or several.
    phrases : tuple of str
        Other wordings; their embeddings are averaged with that of `text`.
    backbones : tuple of str or None
        The models of fixed vocabulary that know it; others of that kind leave it out without a
        word. A model of free text uses every concept.
    negative : str or None
        The phrase of its absence ("no hair").
    source, note : str or None
        Where it comes from; what else to know.
    """

    text: str
    facet: str | None = None
    classes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    backbones: tuple[str, ...] | None = None
    negative: str | None = None
    source: str | None = None
    note: str | None = None


class Provenance(_Part):
    """Who wrote a bank, when, under which licence."""

    author: str | None = None
    date: str | None = None
    licence: str | None = None
    note: str | None = None


class ConceptBank(_Part):
    """Concepts and the classes they were written for; immutable.

    Attributes
    ----------
    name : str
    description : str
    classes : tuple of ConceptClass, length C
    concepts : tuple of Concept, length m
        Their texts differ, also when compared without case.
    templates : tuple of str
        Prompts with one `{}` where the phrase goes; embeddings are averaged over them.
    provenance : Provenance
    format_version : 1

    Raises
    ------
    InputError
        If a field is unknown, missing or of the wrong type, a phrase is empty or there twice, a
        class is unknown, or a spelling belongs to two classes.

    Examples
    --------
    >>> from skmoecbm.concepts import ConceptBank
    >>> bank = ConceptBank.from_dict({"mel": ["blue-white veil", "large"], "nv": ["round"]})
    >>> bank
    ConceptBank('custom', 3 concepts, 2 classes)
    >>> bank.incidence.astype(int).tolist()
    [[1, 0], [1, 0], [0, 1]]
    """

    format_version: Literal[1] = 1
    name: str
    description: str = Field(default="", min_length=0)
    classes: tuple[ConceptClass, ...] = ()
    concepts: tuple[Concept, ...] = Field(min_length=1)
    templates: tuple[str, ...] = Field(default=("{}",), min_length=1)
    provenance: Provenance = Provenance()

    def __init__(self, **fields):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError(sentences(error)) from None

    @model_validator(mode="after")
    def _consistent(self):
        owner = {}
        for one in self.classes:
            for spelling in {folded(s) for s in (one.key, one.name, *one.synonyms)}:
                if spelling in owner:
                    raise ValueError(
                        f"the spelling {spelling!r} belongs to two classes, {owner[spelling]!r} "
                        f"and {one.key!r}; a label with it could not be matched"
                    )
                owner[spelling] = one.key
        keys, seen = set(self.class_keys), set()
        for concept in self.concepts:
            unknown = [key for key in concept.classes if key not in keys]
            if unknown:
                raise ValueError(
                    f"concept {concept.text!r} is written for class {unknown[0]!r}, "
                    f"which is not among the classes {sorted(keys)}"
                )
            if folded(concept.text) in seen:
                raise ValueError(
                    f"concept {concept.text!r} is there twice; "
                    "a concept of several classes is one entry with several `classes`"
                )
            seen.add(folded(concept.text))
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold '{{}}' once, for the phrase")
        return self

    def __deepcopy__(self, memo=None):
        """Return the bank itself, so that `sklearn.base.clone` costs nothing."""
        return self

    def __repr__(self):
        """Return one line: name, number of concepts and of classes."""
        return f"ConceptBank({self.name!r}, {len(self)} concepts, {len(self.classes)} classes)"

    __str__ = __repr__

    def __len__(self):
        """Return the number of concepts."""
        return len(self.concepts)

    @property
    def class_keys(self):
        """Keys of the classes, a list of str of length C."""
        return [one.key for one in self.classes]

    @property
    def texts(self):
        """Texts of the concepts, a list of str of length m."""
        return [concept.text for concept in self.concepts]

    @property
    def incidence(self):
        """Whether a concept was written for a class: bool array of shape (m, C)."""
        keys = self.class_keys
        rows = [[key in concept.classes for key in keys] for concept in self.concepts]
        return np.array(rows, dtype=bool).reshape(len(self), len(keys))

    @property
    def class_synonyms(self):
        """Every spelling of a class, lower-case -> its key."""
        return {
            folded(spelling): one.key
            for one in self.classes
            for spelling in (one.key, one.name, *one.synonyms)
        }

    def match_labels(self, labels):
        """Return which class each label means.

        Parameters
        ----------
        labels : iterable of str or int
            Class labels as they are in `y`: keys, names or synonyms, in any case.

        Returns
        -------
        dict of label to str or None
            The key of the class; None where no class has this spelling.
        """
        spellings = self.class_synonyms
        return {label: spellings.get(folded(label)) for label in labels}

    def subset(self, indices):
        """Return the bank with only the concepts at `indices`, in their order."""
        return self.model_copy(update={"concepts": tuple(self.concepts[i] for i in indices)})

    @classmethod
    def from_dict(cls, concepts, *, name="custom"):
        """Make a bank from class -> phrases; a phrase of several classes becomes one concept.

        Parameters
        ----------
        concepts : dict of str to list of str
            Keys are the classes as `y` has them.
        name : str, default="custom"

        Raises
        ------
        InputError
            If it is not such a dict, or a phrase is empty.
        """
        if not isinstance(concepts, Mapping) or not concepts:
            raise InputError(
                f"Concepts must be a non-empty dict of class -> phrases. Got {concepts!r:.80}."
            )
        merged = {}
        for key, phrases in concepts.items():
            if isinstance(phrases, str) or not isinstance(phrases, list | tuple):
                raise InputError(f"The concepts of class {key!r} must be a list of str.")
            for phrase in phrases:
                if not isinstance(phrase, str) or not phrase.strip():
                    raise InputError(f"Class {key!r} has an empty phrase ({phrase!r}); remove it.")
                _, keys = merged.setdefault(folded(phrase), (phrase, []))
                if str(key) not in keys:
                    keys.append(str(key))
        return cls(
            name=name,
            classes=[{"key": str(key)} for key in concepts],
            concepts=[{"text": text, "classes": keys} for text, keys in merged.values()],
        )

    @classmethod
    def from_json(cls, path):
        """Read a bank that `to_json` wrote, or a file of class -> phrases, or a list of phrases.

        Raises
        ------
        FormatError
            If the file is not JSON, or not a bank.
        """
        path, data = Path(path), read_json(path)
        try:
            if isinstance(data, list):
                return _from_list(data, path.stem)
            if not isinstance(data, dict):
                raise InputError("a bank is a JSON object.")
            if "concepts" in data and not isinstance(data.get("concepts"), str):
                return cls(**data)
            return cls.from_dict(data, name=path.stem)
        except InputError as error:
            raise FormatError(f"'{path}' is not a bank of concepts: {error}") from error

    def to_json(self, path):
        """Write the bank as JSON; the same bank gives the same bytes everywhere."""
        data = {"format_version": self.format_version}
        data |= self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
        Path(path).write_bytes(text.encode())

    @classmethod
    def from_labo(cls, path):
        """Read a concept file of LaBo: class name -> list of phrases.

        Empty phrases are left out, repeated ones joined; a phrase of several classes is one
        concept of them all.

        References
        ----------
        Yang et al., "Language in a Bottle", CVPR 2023, section 3.2.

        Raises
        ------
        FormatError
            If the file is not such a JSON object.
        """
        path, data = Path(path), read_json(path)
        if not isinstance(data, dict) or not all(isinstance(v, list) for v in data.values()):
            raise FormatError(f"'{path}' is not a LaBo file: a JSON object of class -> phrases.")
        try:
            phrases = {key: [p for p in values if p != ""] for key, values in data.items()}
            return cls.from_dict(phrases, name=path.stem)
        except InputError as error:
            raise FormatError(f"'{path}' is not a LaBo file: {error}") from error


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
        return _from_list(concepts, "custom")
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

    Raises
    ------
    InputError
        If no bank has this name; the message lists those there are.
    """
    if name not in list_concepts():
        raise InputError(
            f"There is no bundled bank {name!r}; there are {list_concepts()}. "
            "A bank of your own is a dict, a list, or a path that ends in '.json'."
        )
    with resources.as_file(resources.files("skmoecbm.concepts") / "banks") as folder:
        return ConceptBank.from_json(folder / f"{name}.json")


def _from_list(phrases, name):
    bad = next((p for p in phrases if not isinstance(p, str) or not p.strip()), None)
    if not phrases or bad is not None:
        raise InputError(f"Concepts must be a non-empty list of non-empty str. Got {bad!r}.")
    return ConceptBank(name=name, concepts=[{"text": phrase} for phrase in phrases])
