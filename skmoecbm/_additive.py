"""One expert's share in a decision, as the sum that explanations are made of."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["AdditivePart"]


@dataclass
class AdditivePart:
    """One expert's share in a decision; what an explanation is made of.

    decision_function[i, k] is the sum over experts of
    ``weight[i] * (values[i] @ association[k] + intercept[k])``, and the shift of a
    `target_prevalence`. Of a pool of probabilities it is predict_proba[i, k] that is a sum over
    experts, of ``values[i] @ (slopes[i] @ association)[k] + constant[i, k]``.

    Attributes
    ----------
    name : str
    concepts : list of str
    weight : ndarray of shape (n,)
        Post-pool scale times gate weight times expert scale; 0 where absent. With `slopes` it is 1.
    gate, share : ndarray of shape (n,)
        Gate weight G_e, and what a reader should see: G_e tau_e over its sum.
    values : ndarray of shape (n, m)
        Standardised similarities (for ``activation="softmax"`` as they came); 0 where absent.
    similarities : ndarray of shape (n, m)
        As they came; NaN where absent.
    association : ndarray of shape (K', m)
    intercept : ndarray of shape (K',)
    logits : ndarray of shape (n, K')
        The expert's own logits; 0 where absent.
    quantiles : ndarray of shape (m, 101) or None
        Of `similarities` over the training rows, at the shares 0, 0.01, ..., 1; None where they
        are not known.
    slopes : ndarray of shape (n, K, K) or None
        How much each probability moves with each of the expert's logits, for a pool of
        probabilities; None where contributions are logits.
    constant : ndarray of shape (n, K) or None
        With `slopes`, what the expert adds where all its `values` are 0.
    """

    name: str
    concepts: list
    weight: np.ndarray
    gate: np.ndarray
    share: np.ndarray
    values: np.ndarray
    similarities: np.ndarray
    association: np.ndarray
    intercept: np.ndarray
    logits: np.ndarray
    quantiles: np.ndarray | None = None
    slopes: np.ndarray | None = None
    constant: np.ndarray | None = None

    def towards(self, columns, signs=1.0):
        """Return contributions (n, m) of each concept to the column that each row is about.

        Parameters
        ----------
        columns : ndarray of shape (n,), int
        signs : ndarray of shape (n,) or float, default=1.0
            What each row's contributions are multiplied by.
        """
        if self.slopes is None:
            direction = self.association[columns]
        else:
            direction = self.slopes[np.arange(len(columns)), columns] @ self.association
        return (signs * self.weight)[:, None] * self.values * direction

    def added(self):
        """Return what the expert adds where all its `values` are 0, shape (n, K')."""
        if self.constant is None:
            return self.weight[:, None] * self.intercept
        return self.constant

    def combined(self, mixture):
        """Return this part with sums of its columns: ``mixture`` (K', K'') holds their signs."""
        changes = {"logits": self.logits @ mixture}
        if self.slopes is None:
            changes["association"] = mixture.T @ self.association
            changes["intercept"] = self.intercept @ mixture
        else:
            changes["slopes"] = np.einsum("nkc,kj->njc", self.slopes, mixture)
            changes["constant"] = self.constant @ mixture
        return replace(self, **changes)

    def rows(self, rows):
        """Return the part of some rows, given by number."""
        fields = ("weight", "gate", "share", "values", "similarities", "logits")
        fields += () if self.slopes is None else ("slopes", "constant")
        return replace(self, **{name: getattr(self, name)[rows] for name in fields})
