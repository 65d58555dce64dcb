"""Concepts: banks of phrases, and which of them to keep."""

from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._library import as_bank, list_concepts, load_concepts
from skmoecbm.concepts._parts import Concept, ConceptClass, Facet, Provenance
from skmoecbm.concepts._select import SubmodularSelector, TopKConcepts

__all__ = [
    "Concept",
    "ConceptBank",
    "ConceptClass",
    "Facet",
    "Provenance",
    "SubmodularSelector",
    "TopKConcepts",
    "as_bank",
    "list_concepts",
    "load_concepts",
]
