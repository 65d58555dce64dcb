"""Concepts: banks of phrases, and which of them to keep."""

from skmoecbm.concepts._bank import (
    Concept,
    ConceptBank,
    ConceptClass,
    Provenance,
    as_bank,
    list_concepts,
    load_concepts,
)
from skmoecbm.concepts._select import TopKConcepts

__all__ = [
    "Concept",
    "ConceptBank",
    "ConceptClass",
    "Provenance",
    "TopKConcepts",
    "as_bank",
    "list_concepts",
    "load_concepts",
]
