"""Forbid a concept to a fitted model, or pin the sign with which it may speak."""

import copy
import warnings

import numpy as np

from skmoecbm._class_names import banks_of, did_you_mean, names_of
from skmoecbm._concept_cells import find_concept, list_of_names
from skmoecbm._edit_refit import refit_heads
from skmoecbm._last_step import features_for, fitted_classifier, with_classifier
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["edit"]


def edit(model, *, forbid=(), pin=None, experts=None, refit=None):
    """Return a copy of a model that may not use a concept, or only in one direction.

    Parameters
    ----------
    model : Pipeline or classifier
        Fitted; it stays as it is.
    forbid : str or list of str, default=()
        Concepts that may no longer count: their weights become 0, in the experts and in what the
        gate reads of similarities, so that no value of theirs changes any prediction. A gate that
        reads embeddings sees the picture, and whatever is in it. ``"expert__concept"`` names the
        concept of one expert, here and in `pin`.
    pin : dict of (concept, class) to "+" or "-", default=None
        The sign that the weight of a concept for a class may have: with ``"+"`` more of the
        concept can only raise the class's logit of that expert, with ``"-"`` only lower it. A
        gate that reads similarities may still listen to other experts for it. Without `refit` a
        weight of the other sign becomes 0, with a warning.
    experts : str, list of str or None, default=None
        Whose concepts are meant; None is of every expert that has them.
    refit : tuple of (X, y) or (X, y, sample_weight), default=None
        Images (or features, as `predict` takes), labels, and weights of shape (n,), >= 0, as `fit`
        takes them; usually those of the training: the edited experts are fitted again on them,
        under all edits so far, with their own alpha and prior. Gate and temperatures stay.

    Returns
    -------
    model : as it was given
        Its classifier has `edit_log_`, a list of dict: `action`, `expert`, `concept`, `label`,
        `sign`, the weight `before` and `after` (of several classes the largest), and whether it
        was `refit`. `save` keeps it, and the model card tells it. A new `fit` forgets it.

    Raises
    ------
    InputError
        For an unknown concept, class or expert, an expert whose head is not of this package, a pin
        that is the opposite of one before, or rows that do not fit the model.

    Notes
    -----
    What the training measured (`oof_logits_`, `oof_log_loss_`, `routing_information_`) is kept as
    it was: it is of the model before. So are `thresholds_`, which still decide; tune them again.
    A calibration for `predict_set` would promise what the edited model does not keep, and is gone.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures, edit
    >>> D = np.random.default_rng(0).normal(size=(80, 2))
    >>> X = ExpertFeatures.from_similarities({"clip": (D, ["ruler", "round"])})
    >>> y = np.where(D.sum(axis=1) > 0, "mel", "nv")
    >>> model = ConceptBottleneckClassifier().fit(X, y)
    >>> edited = edit(model, forbid="ruler", refit=(X, y))
    >>> edited.association_[0, 0] == 0, edited.edit_log_[0]["concept"]
    (np.True_, 'ruler')
    """
    model, classifier = fitted_classifier("edit", model, sums_concepts=True)
    banks = [] if model is classifier else banks_of(model.steps[0][1])
    names = names_of(classifier.classes_.tolist(), banks)
    entries = _entries(classifier, forbid, pin, experts, names)
    edited = _copy(classifier, {entry["expert"] for entry in entries})
    _apply(edited, entries)
    log = [*map(dict, getattr(classifier, "edit_log_", ())), *entries]
    if refit is not None:
        features, y, sample_weight = _rows(model, refit)
        touched = {entry["expert"] for entry in entries}
        refit_heads(edited, features, y, log, touched, sample_weight)
        for entry in log:
            entry["after"] = _weight(edited, entry)
    elif clipped := [e for e in entries if e["action"] == "pin" and e["before"] != e["after"]]:
        told = [f"{e['concept']!r} for {e['label']!r} of {e['expert']!r}" for e in clipped]
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        warnings.warn(
            f"Pinned weights had the other sign and are 0 now: {', '.join(told[:5])}{more}. The "
            "other concepts were not fitted again to make up for it; refit=(X, y) does that.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    edited.edit_log_ = log
    return with_classifier(model, edited)


def _entries(classifier, forbid, pin, experts, class_names):
    """Return the lines of the log that the parameters mean, each for one expert's concept."""
    forbid = list_of_names("edit", "forbid", forbid)
    experts = None if experts is None else list_of_names("edit", "experts", experts)
    if pin is not None and not hasattr(pin, "items"):
        raise parameter_error("edit", "pin", "a dict of (concept, class) -> '+' or '-'", pin)
    asked = [("forbid", concept, None, None) for concept in forbid]
    classes = classifier.classes_.tolist()
    for key, sign in (pin or {}).items():
        if not (isinstance(key, tuple) and len(key) == 2 and sign in ("+", "-")):
            wanted = "a dict of (concept, class) -> '+' or '-'"
            raise parameter_error("edit", "pin", wanted, {key: sign})
        label = getattr(key[1], "item", lambda key=key: key[1])()
        if label not in classes:
            meant = did_you_mean(label, classes, class_names)
            raise InputError(f"There is no class {label!r} to pin; there are {classes}.{meant}")
        asked.append(("pin", key[0], label, sign))
    if not asked:
        raise InputError("Nothing to edit. Name a concept in forbid, or a sign in pin.")
    entries, seen, pinned = [], {}, {}
    for entry in getattr(classifier, "edit_log_", ()):
        _pin(classifier, entry, pinned)
    for action, concept, label, sign in asked:
        for e, j in find_concept(classifier, concept, experts):
            head = _heads(classifier)[e]
            name, own = classifier._layout.names[e], classifier._layout.concepts[e][j]
            if not isinstance(head, ConceptBottleneckClassifier):
                raise InputError(
                    f"The concept {own!r} of expert {name!r} cannot be edited: its head is not of "
                    "this package. Fit it again without that column, or name other experts."
                )
            known = seen.setdefault((e, j), {})
            if known and (action == "forbid" or None in known or label in known):
                raise InputError(
                    f"The edits of concept {own!r} of expert {name!r} contradict or repeat each "
                    "other. Forbid it, or pin it once for a class."
                )
            known[label] = sign
            entry = {"action": action, "expert": name, "concept": own, "label": label}
            entry |= {"sign": sign, "before": 0.0, "after": 0.0, "refit": False}
            _pin(classifier, entry, pinned)
            entries.append(entry | {"before": _weight(classifier, entry)})
    return entries


def _pin(classifier, entry, pinned):
    """Note a pin of the log, and raise if it is the opposite of one in `pinned`."""
    if entry["action"] != "pin":
        return
    _, _, row, factor = _place(classifier, entry)
    # of two classes "+" for one is "-" for the other
    place, sign = (entry["expert"], entry["concept"], row), factor * float(entry["sign"] + "1")
    other = pinned.setdefault(place, (sign, entry))[1]
    if pinned[place][0] != sign:
        raise InputError(
            f"The concept {entry['concept']!r} of expert {entry['expert']!r} is pinned to "
            f"{other['sign']!r} for {other['label']!r} already, the opposite of {entry['sign']!r} "
            f"for {entry['label']!r}: both together are no weight at all. Start from the model "
            "before that edit, or forbid the concept."
        )


def _heads(classifier):
    return getattr(classifier, "heads_", [classifier])


def _place(classifier, entry):
    """Return head, number of the concept, and for a pin the row of A and the sign to read it."""
    e = classifier._layout.names.index(entry["expert"])
    j = classifier._layout.concepts[e].index(entry["concept"])
    head, row, factor = _heads(classifier)[e], None, 1.0
    if entry["action"] == "pin":
        row = classifier.classes_.tolist().index(entry["label"])
        if len(head.association_) == 1:
            row, factor = 0, 2.0 * row - 1.0
    return head, j, row, factor


def _weight(classifier, entry):
    """Return the weight of a pinned concept for its class, or the largest of a forbidden one."""
    head, j, row, factor = _place(classifier, entry)
    if row is None:
        return float(np.abs(head.association_[:, j]).max())
    return float(factor * head.association_[row, j]) + 0.0


def _copy(classifier, experts):
    """Return a copy whose edited parts are its own."""
    edited = copy.copy(classifier)
    vars(edited).pop("set_calibration_", None)  # it promises a coverage, of the model before
    if hasattr(classifier, "heads_"):
        edited.heads_ = [
            copy.copy(head) if name in experts else head
            for name, head in zip(classifier._layout.names, classifier.heads_, strict=True)
        ]
    for name, head in zip(classifier._layout.names, _heads(edited), strict=True):
        if name in experts:
            head.association_ = head.association_.copy()
    return edited


def _apply(edited, entries):
    """Set what may not be to zero, and note what became of each weight."""
    forbidden = []
    for entry in entries:
        head, j, row, factor = _place(edited, entry)
        if row is None:
            head.association_[:, j] = 0.0
            e = edited._layout.names.index(entry["expert"])
            forbidden.append(sum(map(len, edited._layout.concepts[:e])) + j)
        else:
            sign = factor * (1.0 if entry["sign"] == "+" else -1.0)
            if sign * head.association_[row, j] < 0:
                head.association_[row, j] = 0.0
        entry["after"] = _weight(edited, entry)
    if forbidden and hasattr(edited, "gate_input_state_"):
        _hide_from_gate(edited, forbidden)


def _hide_from_gate(edited, columns):
    """Let some similarities count as average in all that the gate reads."""
    state = dict(edited.gate_input_state_)
    if "inverse_temperature" in state or "expert" in state:
        return  # it reads what the experts say, or an embedding
    if "components" in state:
        state["components"] = state["components"].copy()
    else:  # each similarity is a component of its own
        state["components"] = np.eye(len(state["mean"]))
    state["components"][:, columns] = 0.0
    edited.gate_input_state_ = state


def _rows(model, refit):
    """Return the features, labels and weights (or None) that `refit` means."""
    if not isinstance(refit, tuple | list) or len(refit) not in (2, 3):
        wanted = "a tuple (X, y) of images and labels, or (X, y, sample_weight)"
        raise parameter_error("edit", "refit", wanted, refit)
    X, y, *weights = refit
    return features_for(model, X), y, weights[0] if weights else None
