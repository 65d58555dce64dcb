"""A search over settings of the mixture: all settings of a fold fitted together."""

import time

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.validation import check_is_fitted

from skmoecbm._base import fit_task
from skmoecbm._gates import LinearGate
from skmoecbm._search_table import (
    Scoring,
    held_in_memory,
    list_settings,
    result_table,
    split_rows,
    take_rows,
)
from skmoecbm._settings_fit import fit_settings, new_memories
from skmoecbm._validation import check_number, parameter_error
from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier

__all__ = ["GatedConceptBottleneckClassifierCV"]


class GatedConceptBottleneckClassifierCV(
    CallbackSupportMixin, MetaEstimatorMixin, ClassifierMixin, BaseEstimator
):
    """A search over settings of the mixture, all those of a fold fitted together.

    The same folds, scores and choice as scikit-learn's `GridSearchCV` over the classifier. What
    settings share is done once: the rows are read once a fold, the experts of settings that differ
    in gate or pool are fitted once, and all experts of a fold, under all penalties and priors, on
    all inner folds, are solved as one stack of problems.

    Parameters
    ----------
    estimator : GatedConceptBottleneckClassifier or None, default=None
        What is searched over; None is one with ``head=ConceptBottleneckClassifier()`` and
        ``gate=LinearGate()``, so that both have parameters to search.
    param_grid : dict, list of dict or None, default=None
        As of `GridSearchCV`: parameter name to the list of values to try; of several such dicts
        each is a grid of its own. None, and no `settings`: three prior strengths by three
        penalties of the gate.
    settings : list of dict or None, default=None
        In the place of a grid: each dict a setting, parameter name to value.
    scoring : str, callable or None, default=None
        None: minus the log-loss in nats. The name of a scorer of scikit-learn, or a callable
        ``scoring(estimator, X, y)`` with one number, greater is better. Whatever scores, each row
        held out counts once: `sample_weight` is of fits alone.
    cv : int, splitter or iterable, default=5
        Folds on which settings are compared. An integer asks for at most that many stratified
        folds, which keep groups together.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As of `GridSearchCV`. All settings of a fold are fitted together: `mean_fit_time` is an
        equal share of that.
    best_estimator_ : GatedConceptBottleneckClassifier
        Fitted on all rows with the best setting, by its own `fit`.
    best_params_ : dict
    best_score_ : float
        Mean score of the best setting on the held-out rows. The best of many is flattered: use
        nested folds to tell how good the model is.
    best_index_ : int
    n_splits_ : int
    refit_time_ : float
        Seconds.
    scorer_ : callable
    classes_ : ndarray of shape (K,)
    n_features_in_ : int

    See Also
    --------
    sklearn.model_selection.GridSearchCV : For pipelines, encoders and several scores at once.

    Notes
    -----
    Stacked are experts whose association is ``activation="linear"`` without L1: these problems are
    convex and smooth, so each has one optimum wherever it is approached from. Other activations,
    other classifiers as heads and an alpha that is left open (its search) are fitted one by one
    for each distinct first stage; `JointTraining` for each setting. The results are the same.

    Experts are solved to a third of the distance from the optimum that ``head__tol`` allows a fit
    by itself, and on the inner folds to the same, so scores differ from one by one by what that
    tolerance leaves open.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import GatedConceptBottleneckClassifier, GatedConceptBottleneckClassifierCV
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> mixture = GatedConceptBottleneckClassifier(
    ...     ConceptBottleneckClassifier(), experts=[("left", slice(0, 6)), ("right", slice(6, 13))]
    ... )
    >>> search = GatedConceptBottleneckClassifierCV(mixture, {"head__alpha": [1.0, 1000.0]})
    >>> search.fit(X, y).best_params_
    {'head__alpha': 1.0}
    >>> search.predict(X[:2])
    array([0, 0])
    """

    def __init__(self, estimator=None, param_grid=None, *, settings=None, scoring=None, cv=5):
        self.estimator = estimator
        self.param_grid = param_grid
        self.settings = settings
        self.scoring = scoring
        self.cv = cv

    def _base(self):
        """Return the unfitted classifier that settings are set on."""
        if self.estimator is None:
            return GatedConceptBottleneckClassifier(ConceptBottleneckClassifier(), LinearGate())
        if not isinstance(self.estimator, GatedConceptBottleneckClassifier):
            raise parameter_error(
                self,
                "estimator",
                "a GatedConceptBottleneckClassifier or None (GridSearchCV searches over others, "
                "and over pipelines)",
                self.estimator,
            )
        return clone(self.estimator)

    @with_callbacks
    def fit(self, X, y, *, sample_weight=None, groups=None):
        """Compare the settings on folds, and fit the best one on all rows.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            Similarities of images to concepts; a row whose block is all NaN has no such expert.
        y : array-like of shape (n,), or indicator of shape (n, K)
        sample_weight : array-like of shape (n,), default=None
            For the fits; held-out rows count the same, as in `GridSearchCV`.
        groups : array-like of shape (n,), default=None
            Rows of one group straddle neither the folds of the search nor those within a fit.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For a parameter out of range or data that cannot be used; the message says which.
        """
        base, settings = self._base(), list_settings(self, self.param_grid, self.settings)
        scoring = Scoring(self, self.scoring)
        if isinstance(self.cv, (int, np.integer)) and not isinstance(self.cv, bool):
            check_number(self, "cv", self.cv, low=2, integer=True)
        y = y if hasattr(y, "shape") or y is None else np.asarray(y)
        first = _set(base, settings[0])
        *_, columns = first._check_parameters()
        material = first._read_material(X, y, sample_weight, groups, columns, kept=False)
        splits = split_rows(self, first, material)
        del first, material
        shape = (len(settings), len(splits))
        scores, fit_times, score_times = (np.empty(shape) for _ in range(3))
        weights = (
            None if sample_weight is None else np.broadcast_to(np.asarray(sample_weight), (len(y),))
        )
        groups = None if groups is None else np.asarray(groups)
        memories = new_memories()
        patterns, table = [_set(base, setting) for setting in settings], held_in_memory(X)
        context = self._init_callback_context(max_subtasks=len(splits) + 1)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        for fold, (train, test) in enumerate(splits):
            with fit_task(context, self, X, y, f"fold {fold}"):
                start = time.perf_counter()
                fitted = [clone(pattern) for pattern in patterns]
                parts = (take_rows(part, train) for part in (table, y, weights, groups))
                fit_settings(fitted, *parts, memories, train, kept=False)
                fit_times[:, fold] = (time.perf_counter() - start) / len(settings)
                held_out, truth = take_rows(table, test), take_rows(y, test)
                for i, classifier in enumerate(fitted):
                    start = time.perf_counter()
                    scores[i, fold] = scoring(classifier, held_out, truth)
                    score_times[i, fold] = time.perf_counter() - start
                scoring.next_rows()
        self.n_splits_, self.scorer_ = len(splits), scoring.scorer
        self.cv_results_ = result_table(settings, scores, fit_times, score_times)
        self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
        self.best_params_ = settings[self.best_index_]
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        best = _set(base, self.best_params_)
        task = context.subcontext(task_name="refit")
        with task.propagate_callback_context(best):
            task.call_on_fit_task_begin(estimator=self, X=X, y=y)
            start = time.perf_counter()
            best.fit(X, y, sample_weight=sample_weight, groups=groups)
            self.refit_time_ = time.perf_counter() - start
        self.best_estimator_ = best
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
        task.call_on_fit_task_end(estimator=self, X=X, y=y)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @property
    def n_features_in_(self):
        """Number of columns seen in `fit`."""
        return self._best().n_features_in_

    @property
    def classes_(self):
        """Classes, or labels."""
        return self._best().classes_

    def _best(self):
        if "best_estimator_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} is not fitted yet; call fit first.")
        return self.best_estimator_

    def _asked(self):
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_

    def predict(self, X):
        """Return the most probable class of each row, or its labels, of the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n,), or (n, K) of many labels
        """
        return self._asked().predict(X)

    def predict_proba(self, X, *, target_prevalence=None):
        """Return class probabilities of the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.
        target_prevalence : "train", dict of class to frequency, or None, default=None
            As in `GatedConceptBottleneckClassifier.predict_proba`.

        Returns
        -------
        ndarray of shape (n, K), float64
        """
        return self._asked().predict_proba(X, target_prevalence=target_prevalence)

    def decision_function(self, X):
        """Return the logits of the classes of the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), or (n,) for two classes, float64
        """
        return self._asked().decision_function(X)

    def score(self, X, y):
        """Return the score that settings were compared by, of the best one on other rows.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.
        y : array-like of shape (n,), or indicator of shape (n, K)

        Returns
        -------
        float
        """
        return float(self.scorer_(self._asked(), X, y))

    def gate_weights(self, X):
        """Return the gate's weights of the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, E), float64
            In [0, 1], rows sum to 1; exactly 0 where an expert is absent.
        """
        return self._asked().gate_weights(X)

    def expert_weights(self, X):
        """Return how much each expert speaks in the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, E), float64
            In [0, 1], rows sum to 1.
        """
        return self._asked().expert_weights(X)

    def expert_logits(self, X):
        """Return each expert's own logits in the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, E, K), or (n, E) for two classes, float64
            NaN where an expert is absent.
        """
        return self._asked().expert_logits(X)

    def explain(self, X, *, images=None):
        """Explain decisions of the best setting.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)
            As in `fit`.
        images : list of length n, default=None
            Shown beside the explanations.

        Returns
        -------
        Explanation
        """
        return self._asked().explain(X, images=images)

    def without(self, name):
        """Return a view of the best classifier that never listens to one expert.

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
        return self._asked().without(name)

    def __sklearn_tags__(self):
        """Tell scikit-learn that a row may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _set(base, setting):
    """Return a copy of a classifier with a setting of its own."""
    return clone(base).set_params(**clone(setting, safe=False))
