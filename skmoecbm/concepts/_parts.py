"""What a bank is made of: classes, concepts, facets, provenance."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Concept", "ConceptClass", "Facet", "Part", "Provenance"]


class Part(BaseModel):
    """An immutable record whose unknown fields and empty texts are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, str_min_length=1
    )


class ConceptClass(Part):
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


class Concept(Part):
    """A phrase that can be seen in an image, with its other wordings.

    Attributes
    ----------
    text : str
        The phrase, and the name of the concept.
    facet : str or None
        What kind of thing it speaks of ("colour", "border").
    classes : tuple of str
        Keys of the classes it was written for; may be none or several.
    against : tuple of str
        Keys of the classes it speaks against ("no" in a table of answers).
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
    against: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    backbones: tuple[str, ...] | None = None
    negative: str | None = None
    source: str | None = None
    note: str | None = None


class Facet(Part):
    """A kind of thing that concepts speak of, and whose vocabulary it is.

    Attributes
    ----------
    name : str
    level : {"general", "specialist"} or None
        Whether anyone sees it ("color"), or a trained reader ("pigment pattern").
    note : str or None
    """

    name: str
    level: Literal["general", "specialist"] | None = None
    note: str | None = None


class Provenance(Part):
    """Who or which model wrote a bank, when, from what, under which licence.

    Attributes
    ----------
    author, date, licence, note : str or None
    model : str or None
        The language model that wrote it.
    prompts : tuple of str
        What the model was asked, word for word.
    references : tuple of str
        The literature that the vocabulary comes from.
    """

    author: str | None = None
    model: str | None = None
    prompts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    date: str | None = None
    licence: str | None = None
    note: str | None = None
