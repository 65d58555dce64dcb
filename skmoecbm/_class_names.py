"""The names that concept banks give to classes, and which class a person means by one."""

import difflib

from skmoecbm.encoder import ConceptEncoder, ExpertUnion

__all__ = ["banks_of", "did_you_mean", "names_of"]


def banks_of(step):
    """Return the concept banks of a fitted encoder or union, [] of any other pipeline step."""
    encoders = (
        [encoder for _, encoder in step.experts_] if isinstance(step, ExpertUnion) else [step]
    )
    return [encoder.bank_ for encoder in encoders if isinstance(encoder, ConceptEncoder)]


def names_of(labels, banks):
    """Return label -> name of its class, of labels that are keys of a bank.

    Labels that are another spelling stay what they are: who wrote "mel-like" did not mean melanoma.
    """
    names = {}
    for bank in banks:
        called = {one.key: one.name for one in bank.classes}
        names = {**{label: called[label] for label in labels if label in called}, **names}
    return names


def did_you_mean(asked, labels, names):
    """Return " Did you mean 'mel' (melanoma)?" where a class was called by its name, or nearly so.

    Parameters
    ----------
    asked : object
        What is no label.
    labels : list of label
    names : dict of label to str
        As of `names_of`.

    Returns
    -------
    str
        Empty where nothing is near.
    """
    spelled = {str(label).casefold(): label for label in labels}
    spelled |= {names[label].casefold(): label for label in labels if label in names}
    # "melanoma (mel)" is how explanations print it
    spelled |= {f"{names[label]} ({label})".casefold(): label for label in labels if label in names}
    near = difflib.get_close_matches(str(asked).casefold(), list(spelled), 1, cutoff=0.75)
    if not near:
        return ""
    label = spelled[near[0]]
    shown = f" ({names[label]})" if names.get(label, str(label)) != str(label) else ""
    return f" Did you mean {label!r}{shown}?"
