"""The language prior: where an association matrix starts before any image is seen."""

import numpy as np

from skmoecbm._label_table import list_some
from skmoecbm._validation import parameter_error
from skmoecbm.concepts._parsing import folded, meant
from skmoecbm.exceptions import InputError

__all__ = ["match_classes", "prior_direction"]


PRIORS = ("class", "class_name", "similarity", "answers")


def prior_direction(owner, prior, block, classes, n_concepts):
    """Return the direction of A0, shape (K, m) or None, and the name of the prior used.

    Parameters
    ----------
    owner : estimator
    prior : {"class", "class_name", "similarity", "answers", None} or array-like of shape (K, m)
        ``"class"``: 1 where a concept was written for the class. ``"class_name"``: 1 for the m / K
        concepts nearest the class's name in the expert's text space. ``"similarity"``: a concept
        counts for a class as much as the class resembles the one it was written for (1 for that
        one itself), by the cosine of their names, of which the mean over pairs of classes counts
        as 0. ``"answers"``: 1 where a concept speaks for the class, -1 where against it.
    block : ExpertBlock or None
        Brings the class keys, which concept was written for which class, and the embeddings.
    classes : ndarray of shape (K,)
        The labels.
    n_concepts : int

    Returns
    -------
    ndarray of shape (K, m), float64 or (of ``"class"``) bool, or None
    str or None
        The prior used; None for ``"class"`` where the features know of no classes, or no concept
        was written for one in y, and for an array of zeros.

    Raises
    ------
    InputError
        If labels match none of the classes that the concepts were written for, two of them match
        the same class, the array has another shape, the features lack what the prior needs, or
        what was asked for by name says nothing of any class in y.

    References
    ----------
    MATHS section 1. Yang et al., "Language in a Bottle", CVPR 2023, section 3.3 (``"class"``) and
    its public code (``"similarity"``).
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
        return (matrix, "array") if matrix.any() else (None, None)
    if prior not in PRIORS:
        wanted = f"one of {PRIORS}, None or an array (classes, concepts)"
        raise parameter_error(owner, "prior", wanted, prior)
    if prior == "class" and (block is None or block.incidence is None or not block.class_keys):
        return None, None
    _check_parts(prior, block)
    without = _way_without(owner, block)
    order = match_classes(block, classes, without)
    if prior == "answers":
        answers = block.answers.astype(np.float64)[:, order].T
        return _spoken(answers, prior, block, classes, without)
    if prior == "class_name":
        names = block.class_embeddings[order].astype(np.float64)
        cosine = names @ block.texts.astype(np.float64).T
        n_nearest = max(1, round(n_concepts / len(classes)))
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :n_nearest]
        direction = np.zeros_like(cosine)
        np.put_along_axis(direction, nearest, 1.0, axis=1)
        return direction, prior
    # Of a thousand classes float64 would be the most, and in their own order no copy is needed.
    same = np.array_equal(order, np.arange(block.incidence.shape[1]))
    written_for = (block.incidence if same else block.incidence[:, order]).T
    if prior == "class":
        return (written_for, prior) if written_for.any() else (None, None)
    likeness = _likeness(block.class_embeddings[order].astype(np.float64))
    # of the classes that a concept was written for, the one most alike counts
    direction = np.zeros(written_for.shape)
    for own, written in zip(likeness.T, written_for, strict=True):
        np.maximum(direction, own[:, None] * written, out=direction)
    return _spoken(direction, prior, block, classes, without)


def _way_without(owner, block):
    """Return what to set in `owner` so that the head of an expert learns without a prior."""
    if hasattr(owner, "prior"):
        return "set prior=None"
    experts = getattr(owner, "experts", None)
    for entry in experts if isinstance(experts, list | tuple) else ():
        if len(entry) == 3 and entry[0] == block.name:
            return f"set prior=None in the head that experts= gives to {block.name!r}"
    return "set head=ConceptBottleneckClassifier(prior=None)"


def _spoken(direction, prior, block, classes, without):
    """Return a direction with its name; raise where all of it is zero: no prior at all."""
    if direction.any():
        return direction, prior
    told = "answer is yes or no" if prior == "answers" else "concept was written for a class"
    raise InputError(
        f"prior={prior!r} says nothing here: of the {len(block.concepts)} concepts of expert "
        f"{block.name!r} no {told} of y, [{list_some(classes, 10)}]. Choose another bank, or "
        f"{without} to learn without one."
    )


def _check_parts(prior, block):
    """Raise where the features lack what a prior needs: falling back would change results."""
    needs = {
        "class": (),
        "class_name": ("class_embeddings", "texts"),
        "similarity": ("class_embeddings", "incidence"),
        "answers": ("answers",),
    }[prior]
    lacking = [part for part in needs if block is None or getattr(block, part) is None]
    if lacking:
        remedies = {
            "answers": "a bank whose concepts have `against` (ConceptBank.from_knobo reads one, "
            "answer_concepts(bank, domain=..., client=...).bank asks a language model for one; "
            "where no answer is no, prior='class' is the same)",
            "class_embeddings": "a bank with classes whose names the model knows",
            "texts": "embeddings, not similarities",
            "incidence": "a bank whose concepts have `classes`",
        }
        carrier = "the features carry" if block is None else f"expert {block.name!r} carries"
        raise InputError(
            f"prior={prior!r} needs {remedies[lacking[0]]}; {carrier} no "
            f"{lacking[0].replace('_', ' ')}. Encode with a ConceptEncoder on such a bank, pass "
            f"{lacking[0]}= to ExpertFeatures.from_embeddings, or choose another prior."
        )


def _likeness(names):
    """Return how alike classes are, (K, K) in [0, 1]: 1 for the same, 0 for the mean of pairs."""
    cosine = names @ names.T
    others = ~np.eye(len(names), dtype=bool)
    usual = cosine[others].mean() if others.any() else 0.0
    likeness = np.clip((cosine - usual) / max(1.0 - usual, 1e-12), 0.0, 1.0)
    np.fill_diagonal(likeness, 1.0)
    return likeness


def match_classes(block, classes, without="set prior=None"):
    """Return for each label the index of its class among `block.class_keys`.

    Labels match a key, a name or a synonym, whatever their case. `without` is what errors advise
    where there should be no prior.
    """
    keys = list(block.class_keys)
    synonyms = {folded(key): key for key in keys} | {
        folded(word): key for word, key in (block.class_synonyms or {}).items()
    }
    found = [synonyms.get(folded(label)) for label in classes]
    lost = [str(label) for label, key in zip(classes, found, strict=True) if key is None]
    if lost:
        raise InputError(
            f"The concepts of expert {block.name!r} were written for the classes "
            f"[{list_some(keys, 10)}], and the label(s) [{list_some(lost, 10)}] match none of "
            f"their keys, names or synonyms.{meant(lost[0], synonyms)} Map the labels, add "
            f"synonyms to the concept bank, or {without} to learn without them."
        )
    for key in keys:
        same = [str(label) for label, own in zip(classes, found, strict=True) if own == key]
        if len(same) > 1:
            raise InputError(
                f"The labels {same} all mean the class {key!r} of expert {block.name!r}, so their "
                f"prior could not tell them apart. Give them one name in y, or {without}."
            )
    return [keys.index(key) for key in found]
