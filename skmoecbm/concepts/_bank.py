"""A bank of concepts: phrases, the classes they were written for, where they come from."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from skmoecbm.concepts._parsing import folded, meant, read_json, sentences
from skmoecbm.concepts._parts import Concept, ConceptClass, Facet, Part, Provenance
from skmoecbm.concepts._readers import (
    csv_fields,
    dict_fields,
    knobo_fields,
    labo_fields,
    list_fields,
)
from skmoecbm.exceptions import FormatError, InputError

__all__ = ["ConceptBank"]


class ConceptBank(Part):
    """Concepts and the classes they were written for; immutable.

    Attributes
    ----------
    name : str
    description : str
    classes : tuple of ConceptClass, length C
    concepts : tuple of Concept, length m
        Their texts differ, also when compared without case.
    facets : tuple of Facet
        Where there are any, every concept that has a facet has one of these.
    templates : tuple of str
        Prompts with one `{}` where the phrase goes; embeddings are averaged over them.
    modality_templates : dict of str to tuple of str
        Prompts for other kinds of images, by name; see `templates_for`.
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
    facets: tuple[Facet, ...] = ()
    templates: tuple[str, ...] = Field(default=("{}",), min_length=1)
    modality_templates: dict[str, tuple[str, ...]] = Field(default={}, min_length=0)
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
                if owner.get(spelling) == one.key:
                    raise ValueError(f"class {one.key!r} is there twice; join the two")
                if spelling in owner:
                    raise ValueError(
                        f"the spelling {spelling!r} belongs to two classes, {owner[spelling]!r} "
                        f"and {one.key!r}; a label with it could not be matched"
                    )
                owner[spelling] = one.key
        keys, facets, seen = set(self.class_keys), {one.name for one in self.facets}, set()
        if len(facets) < len(self.facets):
            raise ValueError("two facets have the same name; join them")
        for concept in self.concepts:
            unknown = [key for key in (*concept.classes, *concept.against) if key not in keys]
            if unknown:
                raise ValueError(
                    f"concept {concept.text!r} is written for class {unknown[0]!r}, "
                    f"which is not among the classes {sorted(keys)}"
                )
            both = sorted(set(concept.classes) & set(concept.against))
            if both:
                raise ValueError(
                    f"concept {concept.text!r} is written both for and against class {both[0]!r}"
                )
            if facets and concept.facet is not None and concept.facet not in facets:
                raise ValueError(
                    f"concept {concept.text!r} has the facet {concept.facet!r}, "
                    f"which is not among the facets {sorted(facets)}"
                )
            if folded(concept.text) in seen:
                raise ValueError(
                    f"concept {concept.text!r} is there twice; "
                    "a concept of several classes is one entry with several `classes`"
                )
            seen.add(folded(concept.text))
        for template in (*self.templates, *sum(self.modality_templates.values(), ())):
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
    def answers(self):
        """What a concept says of a class: int8 array of shape (m, C).

        1 where it was written for the class, -1 where it speaks against it, else 0.
        """
        keys = self.class_keys
        rows = [[key in concept.against for key in keys] for concept in self.concepts]
        against = np.array(rows, dtype=np.int8).reshape(len(self), len(keys))
        return self.incidence.astype(np.int8) - against

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

    def where(self, *, facet=None, level=None, classes=None):
        """Return the bank with only the concepts that have what is asked for.

        Parameters
        ----------
        facet : str or list of str, default=None
        level : {"general", "specialist"}, default=None
            Of the concept's facet; what a generalist or a specialist model may be given.
        classes : str or list of str, default=None
            Concepts written for at least one of these classes, by key.

        Raises
        ------
        InputError
            If a facet, level or class is not known here, or no concept is left.

        Examples
        --------
        >>> from skmoecbm.concepts import load_concepts
        >>> load_concepts("lesions").where(facet="border").texts
        ['irregular border', 'blurred border']
        """
        facets = {one.name for one in self.facets} | {c.facet for c in self.concepts if c.facet}
        levels = {one.name: one.level for one in self.facets}
        wanted = {
            "facet": (facet, facets, lambda c: {c.facet}),
            "level": (level, set(levels.values()) - {None}, lambda c: {levels.get(c.facet)}),
            "class": (classes, set(self.class_keys), lambda c: set(c.classes)),
        }
        kept = set(range(len(self)))
        for what, (values, known, of) in wanted.items():
            if values is None:
                continue
            values = {values} if isinstance(values, str) else set(values)
            if unknown := sorted(values - known, key=str):
                raise InputError(
                    f"The bank {self.name!r} has no {what} {unknown[0]!r}; there are "
                    f"{sorted(known)}.{meant(unknown[0], known)}"
                )
            kept &= {i for i, concept in enumerate(self.concepts) if of(concept) & values}
        if not kept:
            raise InputError(
                f"No concept of the bank {self.name!r} has all that was asked for (facet={facet!r},"
                f" level={level!r}, classes={classes!r})."
            )
        return self.subset(sorted(kept))

    def clean(self, drop=None, keep=None, *, report=None):
        """Return the bank without the phrases that `lint_concepts` finds fault with.

        A concept goes where its text is at fault; where another of its `phrases` is, that alone.
        Of equals one stays, whatever their order, and gets the classes of the others.

        Parameters
        ----------
        drop, keep : str or list of str, default=None
            Rules ("vague") or kinds ("non-visual/location") to drop, and to let be. None drops
            errors: leak, non-visual, demographic, negation, duplicate, and too-long where `report`
            had a backbone; not parts of class names, vague, near-duplicate and shared ones.
        report : LintReport, default=None
            Of this bank, with other rules or a backbone. None lints by the bundled rules.

        Raises
        ------
        InputError
            If a rule is unknown, the report is of another bank, or no concept is left.
        """
        from skmoecbm.concepts._lint import cleaned

        return cleaned(self, drop, keep, report)

    def templates_for(self, modality):
        """Return the prompts for a kind of image, a tuple of str.

        Raises
        ------
        InputError
            If the bank has no prompts of this name.
        """
        if modality not in self.modality_templates:
            raise InputError(
                f"The bank {self.name!r} has no templates for {modality!r}; there are "
                f"{sorted(self.modality_templates)}.{meant(modality, self.modality_templates)}"
            )
        return self.modality_templates[modality]

    def to_frame(self):
        """Return one row per concept: text, facet, level, classes, against, source, note.

        Returns
        -------
        pandas.DataFrame of m rows
            `classes` and `against` are tuples of keys.
        """
        import pandas as pd

        level = {one.name: one.level for one in self.facets}
        rows = [
            (c.text, c.facet, level.get(c.facet), c.classes, c.against, c.source, c.note)
            for c in self.concepts
        ]
        columns = ["concept", "facet", "level", "classes", "against", "source", "note"]
        return pd.DataFrame(rows, columns=columns)

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
        return cls(**dict_fields(concepts, name))

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
                return cls(**list_fields(data, path.stem))
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
        return cls(**labo_fields(path))

    @classmethod
    def from_csv(cls, path):
        """Read a table of concepts, one line for each, or for each class that it belongs to.

        Parameters
        ----------
        path : path
            UTF-8, with a header. The column `concept` must be there; `class`, `facet`,
            `phrases`, `negative`, `source` and `note` may be. Several classes or phrases in one
            cell are parted by `|`.

        Raises
        ------
        FormatError
            If a column is unknown or missing, a line is short, or two lines of one concept
            disagree.
        """
        return cls(**csv_fields(path))

    @classmethod
    def from_knobo(cls, answers, questions=None):
        """Read KnoBo's table of answers: class -> question -> "yes", "no" or "unknown".

        The questions are the concepts; yes is written for the class, no against it. Classes whose
        names differ in case alone are joined; where their answers differ, it is unknown.

        Parameters
        ----------
        answers : path
            A JSON file.
        questions : path, default=None
            A text file, one question a line: only these, in this order. None takes all.

        References
        ----------
        Yang et al., "A Textbook Remedy for Domain Shifts: Knowledge Priors for Medical Image
        Analysis", NeurIPS 2024.

        Raises
        ------
        FormatError
            If a file is not such, or a question has no answers.
        """
        return cls(**knobo_fields(answers, questions))
