"""What a search tries, on which rows, and the table of its results."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import get_scorer
from sklearn.model_selection import ParameterGrid, check_cv

from skmoecbm._base import Reading
from skmoecbm._calibration import log_losses
from skmoecbm._expert_data import KEPT_NUMBERS
from skmoecbm._folds import make_folds
from skmoecbm._labels import LabelMatrix, is_exclusive
from skmoecbm._targets import indicator_of
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["Scoring", "held_in_memory", "list_settings", "result_table", "split_rows", "take_rows"]

#: Tried where the user names nothing: six first stages would be too many for a default.
DEFAULT_GRID = {"head__prior_strength": [0.5, 1.0, 2.0], "gate__penalty": [5.0, 20.0, 80.0]}


def list_settings(owner, param_grid, settings):
    """Return the settings of a search as a list of dicts.

    Raises
    ------
    InputError
        If both are given, or one that is no grid, or no list of settings.
    """
    if param_grid is not None and settings is not None:
        raise InputError(
            f"{type(owner).__name__} takes param_grid or settings, not both. Write what is to be "
            "tried into one of them."
        )
    if settings is None:
        try:
            found = list(ParameterGrid(DEFAULT_GRID if param_grid is None else param_grid))
        except (TypeError, ValueError) as error:
            wanted = "a dict of parameter name to list of values, or a list of such dicts"
            raise parameter_error(owner, "param_grid", wanted, param_grid) from error
    else:
        good = isinstance(settings, (list, tuple)) and all(
            isinstance(one, Mapping) and all(isinstance(name, str) for name in one)
            for one in settings
        )
        if not good:
            wanted = "a list of dicts, each of parameter name to the one value to try"
            raise parameter_error(owner, "settings", wanted, settings)
        found = [dict(one) for one in settings]
    if not found:
        raise InputError(f"{type(owner).__name__} has no setting to try. Give it one at least.")
    return found


def held_in_memory(X):
    """Return features whose similarities are made once, where there is room for them.

    The folds then take rows of these, in the place of making the same ones again.
    """
    if not isinstance(X, ExpertFeatures):
        return X
    blocks = [
        block
        if block.similarities is not None or len(block) * len(block.concepts) > KEPT_NUMBERS
        else replace(block, similarities=block.values())
        for block in X.blocks
    ]
    return ExpertFeatures(blocks)


def take_rows(values, rows):
    """Return rows of an array, DataFrame, list, sparse matrix, `ExpertFeatures`, or None."""
    if values is None:
        return None
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    return values[rows] if hasattr(values, "shape") else np.asarray(values)[rows]


def split_rows(owner, classifier, material):
    """Return a list of (train, test) row numbers, as `owner.cv` asks for.

    An integer asks for the folds that the classifier itself would make: stratified, rows of one
    group together, and at most as many as the rarest class has rows (or groups).
    """
    cv = owner.cv
    codes, groups, n = material.codes, material.groups, len(material.codes)
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        folds, reason = make_folds(
            classifier, cv, codes, material.weights, groups, material.present
        )
        if folds is None:
            raise InputError(
                f"No folds can be made to compare settings on: {reason}. Give more images, or "
                "fit one GatedConceptBottleneckClassifier without a search."
            )
        return [
            (np.flatnonzero(train), np.flatnonzero(folds.held_out == f))
            for f, train in enumerate(folds.train)
        ]
    labels = codes if is_exclusive(codes) else codes.values.astype(int)
    try:
        splitter = check_cv(cv, labels, classifier=True)
    except ValueError as error:
        wanted = "an integer of at least 2, a splitter or an iterable of (train, test)"
        raise parameter_error(owner, "cv", wanted, cv) from error
    splits = list(splitter.split(np.zeros((n, 1)), labels, groups))
    if not splits or not all(len(train) and len(test) for train, test in splits):
        raise parameter_error(owner, "cv", "of folds that all train and hold out rows", cv)
    # Given as masks or row by row, either way.
    return [tuple(np.arange(n)[part] for part in split) for split in splits]


class Scoring:
    """How a fitted classifier is scored on held-out rows; greater is better.

    Parameters
    ----------
    owner : estimator
    scoring : str, callable or None
        None is minus the log-loss, over labels its mean.
    """

    def __init__(self, owner, scoring):
        self.name, self._readings = scoring, {}
        self.scorer = scoring if callable(scoring) else minus_log_loss
        if isinstance(scoring, str):
            try:
                self.scorer = get_scorer(scoring)
            except ValueError as error:
                wanted = "None, the name of a scorer of scikit-learn, or a callable"
                raise parameter_error(owner, "scoring", wanted, scoring) from error
        elif scoring is not None and not callable(scoring):
            raise parameter_error(
                owner,
                "scoring",
                "None, a str or a callable (GridSearchCV takes several at once)",
                scoring,
            )

    def __call__(self, classifier, X, y):
        """Return the score of one fitted classifier."""
        if not callable(self.name):
            # Settings that read the rows alike read them once.
            layout = classifier._layout
            if id(layout) not in self._readings:
                self._readings[id(layout)] = layout, Reading(*classifier._read(X), memo={})
            X = self._readings[id(layout)][1]
        score = self.scorer(classifier, X, y)
        if not isinstance(score, (int, float, np.number)):
            raise InputError(
                f"scoring must return one number. Got {type(score).__name__} ({score!r:.80})."
            )
        return float(score)

    def next_rows(self):
        """Forget the rows that were read."""
        self._readings.clear()


def minus_log_loss(classifier, X, y):
    """Return minus the mean log-loss of the probabilities of a fitted classifier, in nats."""
    p = np.clip(classifier.predict_proba(X), np.finfo(float).eps, 1.0)
    if classifier.multilabel_:
        truth = indicator_of(y, classifier.classes_)
        p = np.clip(p, None, 1.0 - np.finfo(float).eps)
        codes = LabelMatrix(truth, np.ones_like(truth))
        return -float(log_losses(np.log(p) - np.log1p(-p), codes).mean())
    known = {label: k for k, label in enumerate(classifier.classes_.tolist())}
    columns = np.array([known.get(label, -1) for label in np.asarray(y).ravel().tolist()])
    own = np.where(columns >= 0, p[np.arange(len(p)), columns], np.finfo(float).eps)
    return float(np.log(own).mean())


def result_table(settings, scores, fit_times, score_times):
    """Return `cv_results_` as `GridSearchCV` has it.

    Parameters
    ----------
    settings : list of dict, length S
    scores, fit_times, score_times : ndarray of shape (S, F)
    """
    table = {}
    for name, times in (("fit_time", fit_times), ("score_time", score_times)):
        table[f"mean_{name}"], table[f"std_{name}"] = times.mean(1), times.std(1)
    for name in sorted({name for setting in settings for name in setting}):
        table[f"param_{name}"] = _column([setting.get(name, np.ma.masked) for setting in settings])
    table["params"] = settings
    for fold, own in enumerate(scores.T):
        table[f"split{fold}_test_score"] = own
    mean = scores.mean(1)
    table["mean_test_score"], table["std_test_score"] = mean, scores.std(1)
    worst = np.nanmin(mean) - 1 if np.isfinite(mean).any() else 0.0
    ranked = np.nan_to_num(mean, nan=worst, neginf=worst)
    table["rank_test_score"] = rankdata(-ranked, method="min").astype(np.int32)
    return table


def _column(values):
    """Return values as a masked array: of numbers or bools where all are, else of objects."""
    given = [value for value in values if value is not np.ma.masked]
    mask = [value is np.ma.masked for value in values]
    kinds = {type(value) for value in given}
    simple = len(kinds) == 1 and kinds <= {int, float, bool}
    filled = np.empty(len(values), dtype=kinds.pop() if simple else object)
    column = np.ma.MaskedArray(filled, mask=mask)
    for i, value in enumerate(values):
        if not mask[i]:
            column.data[i] = value
    return column
