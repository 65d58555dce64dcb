"""What a mixture would say if it listened to other experts than it does."""

import copy
import warnings
from dataclasses import dataclass

import numpy as np

from skmoecbm._gating import GateState
from skmoecbm.exceptions import SkmoecbmWarning

__all__ = ["Case", "cases_of", "rows_of"]


@dataclass
class Case:
    """One way in which the experts could be listened to.

    Attributes
    ----------
    name : str
    gate : ndarray of shape (n, E)
        Gate weights; NaN in rows that the case says nothing of.
    logits : ndarray of shape (n, K')
        Decision function; NaN there too.
    probabilities : ndarray of shape (n, K)
    """

    name: str
    gate: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray


def rows_of(features, rows):
    """Return some rows of what a classifier takes: a table, an array or a list."""
    if hasattr(features, "iloc"):
        return features.iloc[rows]
    return features[rows] if hasattr(features, "shape") else [features[i] for i in rows]


def cases_of(model, features):
    """Return what a classifier says as it is, without each expert, and at fixed gates.

    "without NAME" is ``model.without(NAME)``, class frequencies where that was the only expert of
    a row; "NAME alone" is the gate at 1 for this expert and 0 for the others, scales as they are;
    "plain average" the same weight for all that are there.

    Parameters
    ----------
    model : ConceptBottleneckClassifier or GatedConceptBottleneckClassifier
        Fitted.
    features : ExpertFeatures, DataFrame or array of shape (n, m)

    Returns
    -------
    list of Case
        The first is "as it is"; the only one where there is one expert in all.
    """
    with warnings.catch_warnings():
        # that a row would be left without experts is what is asked here
        warnings.simplefilter("ignore", SkmoecbmWarning)
        if not hasattr(model, "without"):
            return [_case("as it is", model, features)]
        cases = [_case("as it is", model, features)]
        masked = getattr(model, "masked_experts_", ())
        left = [name for name in model.expert_names_ if name not in masked]
        if len(left) == 1:
            return cases
        cases += [_case(f"without {name}", model.without(name), features) for name in left]
        seen = ~np.isnan(model.expert_logits(features)).reshape(
            len(cases[0].gate), len(model.expert_names_), -1
        )[:, :, 0]
        for name in left:
            e = model.expert_names_.index(name)
            state = GateState("expert", {"index": np.array(e)})
            case = _case(f"{name} alone", _with_gate(model, state), features)
            for array in (case.gate, case.logits, case.probabilities):
                array[~seen[:, e]] = np.nan
            cases.append(case)
        average = _with_gate(model, GateState("uniform"))
        return [*cases, _case("plain average", average, features)]


def _with_gate(model, state):
    view = copy.copy(model)
    view.gate_state_ = state
    return view


def _case(name, model, features):
    probabilities = np.array(model.predict_proba(features), dtype=np.float64)
    logits = np.array(model.decision_function(features), dtype=np.float64)
    if hasattr(model, "gate_weights"):
        gate = np.array(model.gate_weights(features))
    else:
        gate = np.ones((len(logits), 1))
    return Case(name, gate, logits.reshape(len(logits), -1), probabilities)
