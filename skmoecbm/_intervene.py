"""What a model would have said, had a concept been seen otherwise."""

import warnings

import numpy as np

from skmoecbm._base import Reading
from skmoecbm._concept_cells import replace_cells, wanted_cells
from skmoecbm._explanation_text import WHAT_IF
from skmoecbm._intervention import Intervention
from skmoecbm._validation import check_choice
from skmoecbm.exceptions import SkmoecbmWarning
from skmoecbm.explanation import Explanation, explain_features, read_images

__all__ = ["explained", "intervene", "intervene_features", "read_rows"]


def intervene(model, images, changes, *, experts=None, gate="fixed"):
    """Set concepts to other values and see what the model decides then.

    Parameters
    ----------
    model : Pipeline or classifier
        As for `explain`.
    images : array-like of length n
        What the model's `predict` takes.
    changes : dict of str to value
        Concept -> its new value, for all images: ``"present"`` or ``"absent"``, the 95th or 5th
        percentile of the training images; ``"p80"``, any other percentile; or a number, a
        similarity as it comes from the encoder, which is moved into the training range, with a
        warning, where it lies outside. ``"expert__concept"`` names the concept of one expert.
    experts : str, list of str or None, default=None
        Whose concept is meant; None is of every expert that has it.
    gate : {"fixed", "follow"}, default="fixed"
        ``"fixed"``: each expert keeps the trust that the image earned it, and only the evidence
        changes. ``"follow"``: the gate looks again, at the changed similarities. A gate that reads
        embeddings does not see them, and stays.

    Returns
    -------
    Intervention
        The new prediction, what changed, and the concepts that carried it.

    Raises
    ------
    InputError
        For an unknown concept or expert, a value that means nothing, or a percentile of a model
        that does not know its training images.

    Warns
    -----
    SkmoecbmWarning
        Where a value was moved, or an expert is absent: what it did not see cannot be set.

    Notes
    -----
    One concept is moved and all others stay, however much they go together in real images: the
    answer is about the model and not about what a changed lesion would look like.

    References
    ----------
    Koh et al., Concept Bottleneck Models (2020), section 5: interventions at the 5th and 95th
    percentile of the training images.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures, intervene
    >>> D = np.random.default_rng(0).normal(size=(80, 2))
    >>> X = ExpertFeatures.from_similarities({"clip": (D, ["blue veil", "round"])})
    >>> model = ConceptBottleneckClassifier().fit(X, np.where(D[:, 0] > 0, "mel", "nv"))
    >>> result = intervene(model, X[:1], {"blue veil": "absent"})
    >>> result.predicted_before.tolist(), result.predicted.tolist()
    (['mel'], ['nv'])
    >>> result.carried()["concept"].tolist()
    ['blue veil']
    """
    classifier, features, beside = read_images("intervene", model, images)
    return intervene_features(
        classifier, features, changes, experts=experts, gate=gate, beside=beside
    )


def intervene_features(classifier, features, changes, *, experts=None, gate="fixed", beside=None):
    """Intervene on features; the inside of `intervene`."""
    check_choice("intervene", "gate", gate, ("fixed", "follow"))
    cells = wanted_cells("intervene", classifier, changes, experts)
    before = read_rows(classifier, features)
    _warn_absent(classifier, before, cells)
    held = before.data if gate == "fixed" else None
    after = Reading(replace_cells(before.data, cells), before.gate_values, held)
    beside = beside or {}
    what_if = {
        **beside,
        "notices": [*(f"{WHAT_IF}{cell}" for cell in cells), *beside.get("notices", ())],
    }
    pairs = [(before, beside), (after, what_if)]
    additive = getattr(classifier, "pool", "logit") != "prob"
    return Intervention(
        *(explained(classifier, reading, own) for reading, own in pairs),
        shown=None
        if additive
        else [explain_features(classifier, reading, **own) for reading, own in pairs],
        predicted=[classifier.predict(reading) for reading in (before, after)],
        cells=cells,
        additive=additive,
        gate_held=gate == "fixed",
    )


def read_rows(classifier, features):
    """Return a `Reading` of features, without the experts that the model does not listen to."""
    data, gate_values = classifier._read(features)
    for expert in data:
        if expert.name in getattr(classifier, "masked_experts_", ()):
            expert.present = np.zeros_like(expert.present)
    return Reading(data, gate_values)


def explained(classifier, reading, beside=None):
    """Return the explanation; of averaged probabilities each expert's own calibrated logits."""
    beside = beside or {}
    if getattr(classifier, "pool", "logit") != "prob":
        return explain_features(classifier, reading, **beside)
    mixed = classifier._mix(reading, in_full=True)
    parts = classifier._parts_of_experts(mixed, mixed[3] * classifier.expert_scale_)
    decision = classifier.decision_function(reading)
    return Explanation(
        parts,
        logits=decision.reshape(len(decision), -1),
        probabilities=classifier.predict_proba(reading),
        classes=classifier.classes_,
        thresholds=classifier._thresholds(),
        **beside,
    )


def _warn_absent(classifier, reading, cells):
    """Tell which rows could not be changed, since their expert did not see them."""
    told = []
    for e in sorted({cell.expert for cell in cells}):
        lost = np.flatnonzero(~reading.data[e].present)
        if len(lost):
            rows = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
            told.append(f"{classifier._layout.names[e]!r} did not see {len(lost)} (rows {rows})")
    if told:
        warnings.warn(
            f"What an expert did not see cannot be set: of {reading.data[0].shape[0]} rows, "
            f"{'; '.join(told)}. These rows stay as they were for it.",
            SkmoecbmWarning,
            stacklevel=4,
        )
