"""A bank's phrases as a model sees them: which it knows, under which prompts, as unit vectors."""

import warnings

import numpy as np

from skmoecbm._blocks import unit_rows
from skmoecbm._encoder_rows import text_rows
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["class_rows", "concept_rows", "known_concepts", "prompted"]


def concept_rows(backbone, store, bank, *, device):
    """Return the mean embedding of each concept over its phrases and the bank's prompts.

    Returns
    -------
    ndarray of shape (m, d), float32
        L2-normalised.
    """
    wordings = [(c.text, *c.phrases) for c in bank.concepts]
    return _mean_rows(backbone, store, bank, wordings, device)


def class_rows(backbone, store, bank, *, device):
    """Return the same of the class names, (C, d); None where the model does not know them all."""
    names = [(one.name,) for one in bank.classes]
    if not names or not all(_knows(backbone, *name) for name in names):
        return None
    return _mean_rows(backbone, store, bank, names, device)


def prompted(bank, templates, owner):
    """Return the bank with other prompts: those given, or those it has under a name."""
    if templates is None:
        return bank
    if not isinstance(templates, str):
        return bank.model_copy(update={"templates": tuple(templates)})
    if templates not in bank.modality_templates:
        raise parameter_error(
            owner,
            "templates",
            f"None, a list of str that each hold '{{}}' once, or one of "
            f"{sorted(bank.modality_templates)}, which the bank {bank.name!r} has",
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


def known_concepts(bank, backbone):
    """Return the bank without the concepts that a model of fixed vocabulary does not know."""
    unknown = {
        i: concept
        for i, concept in enumerate(bank.concepts)
        if not any(_knows(backbone, phrase) for phrase in (concept.text, *concept.phrases))
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
        warnings.warn(
            f"{len(told)} of {len(bank)} concepts are not in the lexicon of {backbone.name!r} and "
            f"are dropped (an unknown word is a random direction): {', '.join(map(repr, told))}. "
            "Use load_concepts('lesions'), or a backbone of free text.",
            SkmoecbmWarning,
            stacklevel=5,  # past scikit-learn's wrapper of fit
        )
    return bank.subset([i for i in range(len(bank)) if i not in unknown])
