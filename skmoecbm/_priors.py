"""The language prior: where an association matrix starts before any image is seen."""

import numpy as np

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["match_classes", "prior_direction"]


def prior_direction(owner, prior, block, classes, n_concepts):
    """Return the direction of A0, shape (K, m) or None, and the name of the prior used.

    Parameters
    ----------
    owner : estimator
    prior : {"class", None} or array-like of shape (K, m)
        ``"class"``: 1 where a concept was written for the class (MATHS section 1).
    block : ExpertBlock or None
        Brings the class keys and which concept was written for which class.
    classes : ndarray of shape (K,)
        The labels.
    n_concepts : int

    Raises
    ------
    InputError
        If labels match none of the classes that the concepts were written for, two of them match
        the same class, or the array has another shape.
    """
    if prior is None:
        return None, None
    if not isinstance(prior, str):
        matrix = np.asarray(prior, dtype=np.float64)
        if matrix.shape != (len(classes), n_concepts) or not np.isfinite(matrix).all():
            raise InputError(
                f"The 'prior' array of {type(owner).__name__} must be finite and of shape "
                f"(classes, concepts) = ({len(classes)}, {n_concepts}). Got {matrix.shape}."
            )
        return matrix, "array"
    if prior != "class":
        raise parameter_error(
            owner, "prior", "'class', None or an array (classes, concepts)", prior
        )
    if block is None or block.incidence is None or not block.class_keys:
        return None, None
    order = match_classes(block, classes)
    return block.incidence.astype(np.float64)[:, order].T, "class"


def match_classes(block, classes):
    """Return for each label the index of its class among `block.class_keys`.

    Labels match a key, a name or a synonym, whatever their case.
    """
    keys = list(block.class_keys)
    synonyms = {key.casefold(): key for key in keys} | {
        word.casefold(): key for word, key in (block.class_synonyms or {}).items()
    }
    found = [synonyms.get(str(label).strip().casefold()) for label in classes]
    lost = [str(label) for label, key in zip(classes, found, strict=True) if key is None]
    if lost:
        raise InputError(
            f"The concepts of expert {block.name!r} were written for the classes {keys}, and the "
            f"label(s) {lost[:10]} match none of their keys, names or synonyms. Map the labels, "
            "add synonyms to the concept bank, or set prior=None to learn without them."
        )
    for key in keys:
        same = [str(label) for label, own in zip(classes, found, strict=True) if own == key]
        if len(same) > 1:
            raise InputError(
                f"The labels {same} all mean the class {key!r} of expert {block.name!r}, so their "
                "prior could not tell them apart. Give them one name in y, or set prior=None."
            )
    return [keys.index(key) for key in found]
