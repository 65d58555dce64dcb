"""How a fitted mixture decides: weights, pooled logits, views without an expert."""

import copy
from functools import partial

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skmoecbm._additive import AdditivePart
from skmoecbm._base import ConceptClassifier, Reading
from skmoecbm._gate_inputs import gate_inputs
from skmoecbm._gating import gate_weights
from skmoecbm._heads import two_columns
from skmoecbm._mixture import pooled_scale
from skmoecbm._pooling import pool_logits
from skmoecbm._prevalence import prevalence_shift
from skmoecbm._probability_parts import in_probabilities
from skmoecbm.exceptions import InputError

__all__ = ["FittedMixture"]


class FittedMixture(ConceptClassifier):
    """What `GatedConceptBottleneckClassifier` can do once it is fitted."""

    def __getstate__(self):
        """Return what a pickle holds: all but the logits of the training rows."""
        state = dict(super().__getstate__())
        state.pop("oof_logits_", None)
        if "concept_quantiles_" in state and self._quantiles_of_heads() is not None:
            del state["concept_quantiles_"]  # joblib would write what the heads hold again
        return state

    def __setstate__(self, state):
        """Take over what a pickle held."""
        super().__setstate__(state)
        quantiles = self._quantiles_of_heads()
        if quantiles is not None:
            self.concept_quantiles_ = quantiles

    def _quantiles_of_heads(self):
        """Return the quantiles that the heads hold, or None where not all of them do."""
        found = [getattr(head, "concept_quantiles_", None) for head in vars(self).get("heads_", ())]
        return found if found and all(own is not None for own in found) else None

    def __copy__(self):
        """Return a copy with everything; a copy within the process is no pickle."""
        return self._with_state(self.__dict__)

    def __deepcopy__(self, memo):
        """Return a deep copy with everything."""
        return self._with_state(copy.deepcopy(self.__dict__, memo))

    def _with_state(self, state):
        twin = type(self).__new__(type(self))
        twin.__dict__.update(state)
        return twin

    def _mix(self, X, *, in_full=False):
        """Everything between X and the pooled logits.

        The standardised similarities are None of experts that have too many, unless `in_full`.
        """
        data, gate_values = self._read(X)
        present = np.stack([expert.present for expert in data], axis=1)
        for name in getattr(self, "masked_experts_", ()):
            present[:, self.expert_names_.index(name)] = False
        memo = X.memo if isinstance(X, Reading) and not hasattr(self, "masked_experts_") else None
        values, logits = self._ask_heads(data, present, in_full, memo)
        seen, said = data, logits
        if isinstance(X, Reading) and X.gate_data is not None:
            seen = [expert.copy() for expert in X.gate_data]
            _, said = self._ask_heads(seen, present)
        state = self.gate_input_state_
        parts = (state, seen, gate_values, present, [two_columns(own) for own in said])
        inputs = _once(memo, state, lambda: gate_inputs(*parts, not self.multilabel_))
        weights = gate_weights(self.gate_state_, inputs, present)
        scale = pooled_scale(self.pool_scale_, present)
        return data, values, logits, present, weights, scale

    def _ask_heads(self, data, present, in_full=False, memo=None):
        """Return standardised similarities and logits of each expert, 0 where it is not present."""
        values, logits = [], []
        for e, (expert, head) in enumerate(zip(data, self.heads_, strict=True)):
            expert.present = present[:, e]
            if memo is not None and not in_full:
                z, own = None, _once(memo, head, partial(_logits_of, head, expert))
            elif in_full or not expert.is_large or not hasattr(head, "_tiled_logits"):
                z, own = head._logits(expert)
            else:
                z, own = None, head._tiled_logits(expert)
            values.append(z)
            logits.append(own)
        return values, logits

    def _class_logits(self, X):
        _, _, logits, present, weights, scale = self._mix(X)
        stacked = np.stack([two_columns(own) for own in logits], axis=1)
        stacked = stacked * self.expert_scale_[:, None]
        mixed = pool_logits(weights, stacked, scale, self.pool, exclusive=not self.multilabel_)
        return self._fill_absent(mixed, present)

    def gate_weights(self, X):
        """Return the gate's weights G.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, E), float64
            In [0, 1], rows sum to 1; exactly 0 where an expert is absent.
        """
        return self._mix(X)[4]

    def expert_weights(self, X):
        """Return how much each expert speaks: G_e tau_e / sum G tau.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, E), float64
            In [0, 1], rows sum to 1; exactly 0 where an expert is absent.
        """
        return self._shares(self._mix(X)[4])

    def _shares(self, weights):
        voices = weights * self.expert_scale_
        total = voices.sum(axis=1, keepdims=True)
        return voices / np.where(total > 0, total, 1.0)

    def expert_logits(self, X):
        """Return each expert's own logits S_e, before temperatures.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, E, K), or (n, E) for two classes, float64
            NaN where an expert is absent.
        """
        _, _, logits, present, _, _ = self._mix(X)
        stacked = np.where(present[:, :, None], np.stack(logits, axis=1), np.nan)
        return stacked[:, :, 0] if self._n_outputs == 1 else stacked

    def without(self, name):
        """Return a view of this fitted model that never listens to one expert.

        Its predictions are those for rows in which that expert is missing. Nothing is fitted or
        copied; a view that is fitted again has all experts again.

        Parameters
        ----------
        name : str

        Returns
        -------
        GatedConceptBottleneckClassifier

        Raises
        ------
        InputError
            If there is no such expert, or it is the last one.
        """
        check_is_fitted(self)
        masked = tuple(getattr(self, "masked_experts_", ()))
        left = [n for n in self.expert_names_ if n not in masked]
        if name not in left:
            raise InputError(f"There is no expert {name!r} to leave out; there are {left}.")
        if len(left) == 1:
            raise InputError(f"{name!r} is the last expert; without it nothing is left to decide.")
        view = copy.copy(self)
        view.masked_experts_ = (*masked, name)
        vars(view).pop("set_calibration_", None)  # of what it says less is known
        return view

    def _additive_parts(self, X):
        mixed = self._mix(X, in_full=True)
        *_, weights, scale = mixed
        if self.pool == "sum":
            scale = scale * (weights > 0).sum(axis=1)
        parts = self._parts_of_experts(mixed, scale[:, None] * weights * self.expert_scale_)
        if self.pool != "prob":
            return parts
        shift = np.zeros(len(self.classes_)) + prevalence_shift(self, self.target_prevalence)
        return in_probabilities(
            parts, self.expert_scale_, scale, shift, exclusive=not self.multilabel_
        )

    def _parts_of_experts(self, mixed, voices):
        """Return the `AdditivePart` of each expert, of what `_mix` gave and a weight (n, E)."""
        data, values, logits, present, weights, _ = mixed
        shares = self._shares(weights)
        ranges = getattr(self, "concept_quantiles_", [None] * len(data))
        # The outputs of a head that is not linear have no similarities behind them.
        similarities = [
            np.where(present[:, [e]], own.values if getattr(head, "is_linear", True) else z, np.nan)
            for e, (own, z, head) in enumerate(zip(data, values, self.heads_, strict=True))
        ]
        return [
            AdditivePart(
                name,
                self.heads_[e].concept_names_,
                voices[:, e],
                weights[:, e],
                shares[:, e],
                values[e],
                similarities[e],
                self.heads_[e].association_,
                self.heads_[e].intercept_,
                logits[e],
                # A head that is not linear speaks of its own outputs, not of what it was given.
                ranges[e] if getattr(self.heads_[e], "is_linear", True) else None,
            )
            for e, name in enumerate(self.expert_names_)
        ]


def _logits_of(head, expert):
    """Return an expert's logits (n, K'), in tiles where its similarities are many."""
    tiled = getattr(head, "_tiled_logits", None)
    return head._logits(expert)[1] if tiled is None else tiled(expert)


def _once(memo, key, make):
    """Return what was made for an object before, or make it; without a memo always the latter."""
    if memo is None:
        return make()
    if id(key) not in memo:
        memo[id(key)] = key, make()  # with the object, whose id is another's once it is gone
    return memo[id(key)][1]
