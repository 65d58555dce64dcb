"""What the classifiers share: validation, and the way from logits to labels."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.validation import check_is_fitted

from skmoecbm._block_words import EXPERT
from skmoecbm._columns import read_experts
from skmoecbm._labels import is_exclusive, label_log_odds
from skmoecbm._prevalence import prevalence_shift
from skmoecbm._provenance import classifier_training
from skmoecbm._ranges import expert_quantiles
from skmoecbm._targets import encode_labels, label_cells, number_groups, row_weights
from skmoecbm._validation import one_thread
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["ConceptClassifier", "Reading", "fit_task", "is_small"]

_SMALL_TABLE = 2**20


@dataclass
class Reading:
    """What was read of some rows: given in the place of X, it is decided on as it stands.

    Cells can be replaced in between, and the gate go on looking at what was there before.

    Attributes
    ----------
    data : list of ExpertData, length E
    gate_values : ndarray of shape (n, g)
        Columns that only the gate sees.
    gate_data : list of ExpertData or None
        What the gate looks at; None is `data`.
    memo : dict or None
        Where many classifiers decide on the same rows: what heads said and gates saw.
    """

    data: list
    gate_values: np.ndarray
    gate_data: list | None = None
    memo: dict | None = None

    @property
    def shape(self):
        """Rows and columns, (n, Σm)."""
        return len(self.gate_values), sum(expert.shape[1] for expert in self.data)

    def __len__(self):
        """Return the number of rows."""
        return len(self.gate_values)

    def __getitem__(self, rows):
        """Return some rows, given by number."""
        data, gate_data = (
            None if part is None else [expert.take(rows) for expert in part]
            for part in (self.data, self.gate_data)
        )
        return Reading(data, self.gate_values[rows], gate_data)


class ConceptClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """What both classifiers share: checks, and from logits to labels and probabilities."""

    _sums_concepts = True  # whether a decision is a sum over concepts
    _block_words = EXPERT

    @with_callbacks
    def fit(self, X, y, *, sample_weight=None, groups=None):
        """Learn from similarities and labels.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            Similarities of images to concepts; a row whose block is all NaN has no such expert.
        y : array-like of shape (n,), or indicator of shape (n, K), dense or sparse
            Labels, str or int; or 1 where the row has the label of the column, else 0. The columns
            of a DataFrame name the labels.
        sample_weight : array-like of shape (n,), default=None
            A weight of 2 is the row twice, 0 is no row.
        groups : array-like of shape (n,), default=None
            Rows of one group (a lesion, a patient) never straddle folds.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For a parameter out of range or data that cannot be used; the message says which.
        """
        with one_thread(is_small(X)):
            return self._fit(X, y, sample_weight, groups)

    def _read(self, X):
        check_is_fitted(self)
        if isinstance(X, Reading):
            return [expert.copy() for expert in X.data], X.gate_values
        data, gate_values, _, _ = read_experts(self, X, self._layout)
        return data, gate_values

    def predict_proba(self, X, *, target_prevalence=None):
        """Return class probabilities.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            Similarities of images to concepts; an all-NaN block marks a missing expert.
        target_prevalence : "train", dict of class to frequency, or None, default=None
            For this call in the place of the parameter of that name, where that is None too the
            probabilities are those of the frequencies that the model was trained at.

        Returns
        -------
        ndarray of shape (n, K), float64
            In [0, 1], columns as in `classes_`; rows sum to 1 unless a row may have several labels.
        """
        logits = self._shifted_logits(X, target_prevalence)
        return expit(logits) if self.multilabel_ else softmax(logits, axis=1)

    def decision_function(self, X):
        """Return the logits of the classes.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, K), or (n,) for two classes, float64
            For two classes positive values speak for ``classes_[1]``.
        """
        logits = self._shifted_logits(X)
        return logits[:, 1] - logits[:, 0] if self._n_outputs == 1 else logits

    def _shifted_logits(self, X, target_prevalence=None):
        """Return logits (n, K) at the class frequencies that were asked for."""
        target = self.target_prevalence if target_prevalence is None else target_prevalence
        logits = self._class_logits(X)
        return logits if target is None else logits + prevalence_shift(self, target)

    def _thresholds(self):
        """Return from which probability on each label is said, None where a row has one class."""
        if not self.multilabel_:
            return None
        return getattr(self, "thresholds_", np.full(len(self.classes_), 0.5))

    def _constant_logits(self):
        """Return what `target_prevalence` adds to the decision function, shape (K',)."""
        shift = np.zeros(len(self.classes_)) + prevalence_shift(self, self.target_prevalence)
        return shift[1:] - shift[:1] if self._n_outputs == 1 else shift

    def predict(self, X):
        """Return the most probable class of each row, or its labels.

        A row has a label where its probability is at least 0.5, or at least the label's of
        `thresholds_` if `tune_thresholds` set them.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n,), of the labels' dtype; or (n, K), int, 1 where the row has the label
        """
        logits = self._shifted_logits(X)
        if self.multilabel_:
            return (expit(logits) >= self._thresholds()).astype(int)
        return self.classes_[logits.argmax(axis=1)]

    def predict_set(self, X, coverage=0.9, *, allow_empty=False):
        """Return for each row the classes that may be the true one.

        Only of a model that `calibrate_sets` returned; through a pipeline call the function
        `predict_set`, where all is explained.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
        coverage : float in (0, 1), default=0.9
            How often the true class is to be in its set.
        allow_empty : bool, default=False
            False puts the likeliest class into a set that would be empty.

        Returns
        -------
        ndarray of shape (n, K), bool
            True where the class is in the set; columns as in `classes_`.
        """
        from skmoecbm._conformal import sets_of

        return sets_of(self, X, coverage, allow_empty)

    def explain(self, X, *, images=None):
        """Explain the decisions: contributions of experts and concepts that sum to the logits.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
        images : list of length n, default=None
            Shown beside the explanations.

        Returns
        -------
        Explanation
        """
        from skmoecbm.explanation import explain_features

        return explain_features(self, X, images=images)

    def __sklearn_tags__(self):
        """Tell scikit-learn that a row may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @property
    def _n_outputs(self):
        """K', the number of logits: one for two classes that exclude each other."""
        return 1 if len(self.classes_) == 2 and not self.multilabel_ else len(self.classes_)

    def _fill_absent(self, logits, present):
        """Put the class prior where no expert is present; one warning counts the rows."""
        lost = ~present.any(axis=1)
        if lost.any():
            warnings.warn(
                f"{lost.sum()} row(s) have no {self._block_words.one} at all (rows "
                f"{np.flatnonzero(lost)[:5].tolist()}); they get the class frequencies of the "
                f"training data. {self._block_words.nothing}",
                SkmoecbmWarning,
                stacklevel=4,
            )
            logits[lost] = self.class_log_prior_
        return logits

    def _fitted_attributes(self):
        """Return what a copy of this estimator needs to predict, for callbacks that score."""
        return {k: v for k, v in vars(self).items() if k.endswith("_") or k == "_layout"}

    def _start_fit(
        self, X, y, sample_weight, groups, class_weight, experts, gate_columns, *, kept=True
    ):
        """Validate everything that comes with `fit`; of data that is not kept no hash is made."""
        data, gate_values, layout, y = read_experts(
            self, X, y=y, experts=experts, gate_columns=gate_columns
        )
        codes, weights, counts, groups, present = self._start_rows(
            data, gate_values, y, sample_weight, groups, class_weight, kept
        )
        self._layout = layout
        self.concept_quantiles_ = [
            expert_quantiles(expert, counts * (weights > 0) * expert.present) for expert in data
        ]
        return data, gate_values, codes, weights, groups, present

    def _start_rows(self, data, gate_values, y, sample_weight, groups, class_weight, kept=True):
        """Validate what comes with rows that were read, and keep account of them."""
        n = len(data[0].present)
        self.classes_, codes = encode_labels(self, y, n)
        self.multilabel_ = not is_exclusive(codes)
        for name in ("thresholds_", "set_calibration_", "edit_log_", "_not_saved"):
            vars(self).pop(name, None)  # they were made for another fit
        weights = row_weights(self, sample_weight, class_weight, self.classes_, codes)
        counts = row_weights(self, sample_weight, None, self.classes_, codes)
        groups = number_groups(groups, n)
        present, words = np.stack([expert.present for expert in data], axis=1), self._block_words
        weights = weights * present.any(axis=1)
        for e, expert in enumerate(data):
            if not (weights * present[:, e]).any():
                raise InputError(
                    f"{words.one.capitalize()} {expert.name!r} has no training row of any weight: "
                    f"its block is NaN in all of them. {words.unread}, or leave it out."
                )
        given = None if sample_weight is None else counts
        rows = (data, gate_values, codes, weights, given, groups)
        self.training_summary_ = classifier_training(*rows, len(self.classes_), hashed=kept)
        if self.multilabel_:
            codes, _ = label_cells(self, class_weight, self.classes_, codes, weights)
            self.class_log_prior_ = label_log_odds(codes, weights)
            self.class_prevalence_ = weights @ codes.values / weights.sum()
        else:
            mass = np.bincount(codes, weights, minlength=len(self.classes_))
            if not mass.all():
                lost = self.classes_[mass == 0].tolist()
                raise InputError(
                    f"No {words.one} {words.reads} any training row of class(es) {lost[:5]}. Add "
                    f"{words.more} of these classes, or drop the classes."
                )
            self.class_log_prior_ = np.log(np.maximum(mass / weights.sum(), 1e-12))
            cases = np.bincount(codes, counts * (weights > 0), minlength=len(self.classes_))
            self.class_prevalence_ = cases / cases.sum()
        prevalence_shift(self, self.target_prevalence)  # what is wrong with it is told at once
        return codes, weights, counts, groups, present


def is_small(X):
    """Tell whether a table is so small that threads would cost more than they give."""
    shape = getattr(X, "shape", ())
    return len(shape) < 2 or shape[0] * shape[1] <= _SMALL_TABLE


@contextmanager
def fit_task(context, estimator, X, y, name):
    """Report a piece of work to scikit-learn's callbacks.

    Yields a dict for the fitted attributes with which a callback could predict after this task.
    """
    task = context.subcontext(task_name=name)
    task.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
    attributes = {}
    yield attributes
    task.call_on_fit_task_end(
        estimator=estimator, X=X, y=y, reconstruction_attributes=attributes or None
    )
