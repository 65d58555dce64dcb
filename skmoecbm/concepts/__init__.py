"""Concepts: banks of phrases, and which of them to keep."""

from skmoecbm.concepts._answering import answer_concepts
from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._generate import Generation, generate_concepts
from skmoecbm.concepts._library import as_bank, list_concepts, load_concepts
from skmoecbm.concepts._lint import Finding, LintReport, lint_concepts
from skmoecbm.concepts._linted import LintedConcepts
from skmoecbm.concepts._masking import mask_terms
from skmoecbm.concepts._ollama import OllamaClient
from skmoecbm.concepts._openai import OpenAIClient
from skmoecbm.concepts._parts import Concept, ConceptClass, Facet, Provenance
from skmoecbm.concepts._select import SubmodularSelector, TopKConcepts

__all__ = [
    "Concept",
    "ConceptBank",
    "ConceptClass",
    "Facet",
    "Finding",
    "Generation",
    "LintReport",
    "LintedConcepts",
    "OllamaClient",
    "OpenAIClient",
    "Provenance",
    "SubmodularSelector",
    "TopKConcepts",
    "answer_concepts",
    "as_bank",
    "generate_concepts",
    "lint_concepts",
    "list_concepts",
    "load_concepts",
    "mask_terms",
]
