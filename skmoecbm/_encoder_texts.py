"""A bank's phrases as a model sees them: which it knows, under which prompts, as unit vectors."""

import warnings

import numpy as np

from skmoecbm._blocks import unit_rows
from skmoecbm._encoder_rows import text_rows
from skmoecbm._label_table import list_some
from skmoecbm._validation import parameter_error
from skmoecbm._vectors import ConceptVectors
from skmoecbm.concepts import Concept
from skmoecbm.exceptions import InputError, UnknownConceptsWarning

__all__ = [
    "check_words",
    "class_rows",
    "concept_rows",
    "known_concepts",
    "prompted",
    "with_vectors",
]

# concepts that a warning names before it counts the others
_NAMED = 3


def concept_rows(backbone, store, bank, vectors, *, device):
    """Return the mean embedding of each concept over its phrases and the bank's prompts.

    `vectors`, a ConceptVectors or None, stand for or beside the words of the concepts they name.

    Returns
    -------
    ndarray of shape (m, d), float32
        L2-normalised.
    """
    wordings = [(c.text, *c.phrases) for c in bank.concepts]
    has_words = [any(_knows(backbone, phrase) for phrase in phrases) for phrases in wordings]
    worded = [i for i, known in enumerate(has_words) if known]
    texts = np.zeros((len(bank), backbone.dim), dtype=np.float32)
    if worded:
        some = [wordings[i] for i in worded]
        texts[worded] = _mean_rows(backbone, store, bank, some, device)
    return texts if vectors is None else vectors.into(bank.texts, texts, has_words)


def class_rows(backbone, store, bank, *, device):
    """Return the same of the class names, (C, d); None where the model does not know them all."""
    names = [(one.name,) for one in bank.classes]
    if not names or not all(_knows(backbone, *name) for name in names):
        return None
    return _mean_rows(backbone, store, bank, names, device)


def check_words(encoder):
    """Raise unless the parameters that say what stands for a concept are well-formed."""
    templates, select = encoder.templates, encoder.select
    if not isinstance(templates, str | None) and (
        not isinstance(templates, list | tuple)
        or not templates
        or any(not isinstance(t, str) or t.count("{}") != 1 for t in templates)
    ):
        raise parameter_error(
            encoder,
            "templates",
            "None, a name that the bank knows, or a list of str that each hold '{}' once",
            templates,
        )
    if not isinstance(encoder.concept_vectors, ConceptVectors | None):
        raise parameter_error(
            encoder,
            "concept_vectors",
            "None, or the ConceptVectors that fit_concept_vectors returns",
            encoder.concept_vectors,
        )
    if select is not None and (isinstance(select, type) or not hasattr(select, "get_params")):
        raise parameter_error(
            encoder, "select", "None or a selector, such as SubmodularSelector()", select
        )


def with_vectors(bank, vectors, backbone, owner):
    """Return the bank with the concepts that have a vector and are not in it."""
    if vectors is None:
        return bank
    if vectors.fingerprint is not None and vectors.fingerprint != backbone.fingerprint:
        raise parameter_error(
            owner,
            "concept_vectors",
            f"learned on embeddings of {backbone.name!r} with the same preprocessing and "
            "precision; learn them again with this encoder",
            vectors,
        )
    if vectors.vectors.shape[1] != backbone.dim:
        raise parameter_error(
            owner, "concept_vectors", f"vectors of the width {backbone.dim}", vectors
        )
    known = {text.lower(): text for text in bank.texts}
    other = [name for name in vectors.names if known.get(name.lower(), name) != name]
    if other:
        raise InputError(
            f"The concept vector {other[0]!r} and the concept {known[other[0].lower()]!r} of the "
            f"bank {bank.name!r} differ in case alone. Give them one spelling."
        )
    new = [
        Concept(text=name, source="annotated images")
        for name in vectors.names
        if name not in bank.texts
    ]
    return bank.model_copy(update={"concepts": (*bank.concepts, *new)})


def prompted(bank, templates, owner):
    """Return the bank with other prompts: those given, or those it has under a name."""
    if templates is None:
        return bank
    if not isinstance(templates, str):
        return bank.model_copy(update={"templates": tuple(templates)})
    if templates not in bank.modality_templates:
        named = sorted(bank.modality_templates)
        known = f"one of {named}, which it has" if named else "nothing else: it names no prompts"
        raise parameter_error(
            owner,
            "templates",
            f"None, a list of str that each hold '{{}}' once, or of the bank {bank.name!r} {known}",
            templates,
        )
    return bank.model_copy(update={"templates": bank.templates_for(templates)})


def _mean_rows(backbone, store, bank, wordings, device):
    wordings = [[p for p in phrases if _knows(backbone, p)] for phrases in wordings]
    prompts = [[t.replace("{}", p) for p in ps for t in bank.templates] for ps in wordings]
    rows, _ = text_rows(backbone, store, [p for ps in prompts for p in ps], device=device)
    ends = np.cumsum([len(ps) for ps in prompts])[:-1]
    return unit_rows([part.mean(axis=0, dtype=np.float64) for part in np.split(rows, ends)])


def _knows(backbone, phrase):
    return backbone.lexicon is None or phrase.strip().lower() in backbone.lexicon


def known_concepts(bank, backbone, vectors=None):
    """Return the bank without the concepts that a model of fixed vocabulary does not know."""
    unknown = {
        i: concept
        for i, concept in enumerate(bank.concepts)
        if not any(_knows(backbone, phrase) for phrase in (concept.text, *concept.phrases))
        and (vectors is None or concept.text not in vectors.names)
    }
    if not unknown:
        return bank
    if len(unknown) == len(bank):
        raise InputError(
            f"{backbone.name!r} knows none of the {len(bank)} concepts of the bank {bank.name!r}. "
            f"It was trained on a small lexicon ({', '.join(sorted(backbone.lexicon)[:5])}, ...): "
            "use load_concepts('lesions'), or a backbone of free text."
        )
    # concepts that the bank reserves for other models are expected to be unknown to this one
    told = [c.text for c in unknown.values() if not c.backbones or backbone.name in c.backbones]
    if told:
        more = " (all: the `concepts` of this warning)" if len(told) > _NAMED else ""
        warnings.warn(
            UnknownConceptsWarning(
                f"{len(told)} of {len(bank)} concepts are not in the lexicon of {backbone.name!r} "
                "and are dropped (an unknown word is a random direction): "
                f"{list_some(told, _NAMED)}{more}. "
                "Use load_concepts('lesions'), or a backbone of free text.",
                backbone=backbone.name,
                bank=bank.name,
                n_concepts=len(bank),
                concepts=told,
            ),
            stacklevel=5,  # past scikit-learn's wrapper of fit
        )
    return bank.subset([i for i in range(len(bank)) if i not in unknown])
