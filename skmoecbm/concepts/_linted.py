"""A selector that leaves out what the linter finds."""

import numpy as np
from sklearn.base import BaseEstimator, clone

from skmoecbm.concepts._lint import chosen_findings, lint_concepts
from skmoecbm.exceptions import InputError

__all__ = ["LintedConcepts"]


class LintedConcepts(BaseEstimator):
    """Keep the concepts that the linter has nothing against, and choose among them.

    A concept is left out where its text or another of its wordings is at fault, as its embedding
    is the mean of them all; that a wording is there twice is no fault of the concept. A selector
    does not mend: `ConceptBank.clean` takes out such a wording alone, and joins the classes of
    duplicates. Call it first where a bank has these.

    Parameters
    ----------
    rules : str or list of str, default=None
        Rules, or kinds of rules, whose findings leave a concept out ("vague",
        "non-visual/location"); None takes every finding that is an error.
    then : selector, default=None
        Chooses among what is left, such as `SubmodularSelector`; None keeps it all, and needs no
        labels.

    Attributes
    ----------
    report_ : LintReport
    then_ : selector or None
        Fitted on the concepts left; its indices count these.
    support_ : ndarray of int
        The concepts kept, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.concepts import ConceptBank, LintedConcepts
    >>> bank = ConceptBank.from_dict({"mel": ["blue-white veil", "painful to touch"]})
    >>> LintedConcepts().fit(np.eye(2), None, np.eye(2), bank=bank).support_
    array([0])
    """

    def __init__(self, rules=None, *, then=None):
        self.rules = rules
        self.then = then

    @property
    def needs_labels(self):
        """Whether `fit` needs `y`: only where `then` does."""
        return self.then is not None and getattr(self.then, "needs_labels", True)

    def fit(self, embeddings, y, concept_embeddings, incidence=None, *, bank=None):
        """Lint the bank and choose.

        Parameters
        ----------
        embeddings, y, concept_embeddings, incidence, bank
            As of `SubmodularSelector.fit`; without `then` only `bank` is read.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there is no bank, a rule is unknown, or no concept is left.
        """
        if bank is None:
            raise InputError("LintedConcepts reads phrases: pass bank=, the ConceptBank.")
        self.report_ = lint_concepts(bank)
        kept = np.setdiff1d(np.arange(len(bank)), _at_fault(self.report_, self.rules))
        if not len(kept):
            raise InputError(
                f"The linter leaves no concept of the bank {bank.name!r}; read "
                "lint_concepts(bank) and mend the phrases, or choose fewer rules."
            )
        self.then_, self.support_ = None, kept
        if self.then is not None:
            T = np.asarray(concept_embeddings)[kept]
            rows = None if incidence is None else np.asarray(incidence)[kept]
            self.then_ = clone(self.then).fit(embeddings, y, T, rows, bank=bank.subset(kept))
            self.support_ = kept[self.then_.support_]
        return self


def _at_fault(report, rules):
    return [
        one.concept
        for one in chosen_findings(report, rules)
        if one.wording == 0 or one.rule != "duplicate"
    ]
