"""Sets of classes that hold the true one as often as asked: split-conformal prediction."""

import copy
import warnings

import numpy as np
from scipy.special import softmax

from skmoecbm._last_step import features_for, fitted_classifier, with_classifier
from skmoecbm._metrics import check_labels, codes_of, group_of_rows
from skmoecbm._nonconformity import METHODS, TIE, SetCalibration, nonconformity
from skmoecbm._prevalence import prevalence_shift
from skmoecbm._validation import check_choice, parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["calibrate_sets", "predict_set", "sets_of", "sets_to_lists"]


def calibrate_sets(model, X, y, *, groups=None, method="lac", class_conditional=False):
    """Learn from held-out rows how large a set of classes must be to hold the true one.

    Parameters
    ----------
    model : classifier or Pipeline
        Fitted; of this package, or a pipeline (or a search) that ends in one.
    X : array-like of length n
        Images or features that `model` was not fitted on, and of other lesions or patients than
        those it was fitted on.
    y : array-like of shape (n,)
        Their classes.
    groups : array-like of shape (n,), default=None
        Lesion, patient or study of each row. Each group counts once, however many rows it has.
    method : {"lac", "aps"}, default="lac"
        What makes a class strange to a row. ``"lac"``: 1 less its probability; the smallest sets.
        ``"aps"``: the sum of the probabilities of all more probable classes; larger sets where the
        model is unsure and smaller ones where it is sure.
    class_conditional : bool, default=False
        Whether the coverage holds within each true class, not only over all of them. A class with
        few rows is then in most sets, or in all.

    Returns
    -------
    model of the same kind
        It shares what `model` learned and has `set_calibration_` on the classifier; `model` itself
        is left as it was. Saved and loaded with it, forgotten by a new `fit`.

    Raises
    ------
    InputError
        If the model is of another kind or of many labels, or the data do not fit it.

    Notes
    -----
    Promised is the share of true classes in their sets, over draws of calibration rows and of one
    new row of a new group: at least `coverage`, and with distinct scores and one row a group at
    most 1 / (G + 1) more, of G groups (in class-conditional sets those with the class). Nothing
    else is assumed than that groups are exchangeable, and the rows within each; images from
    another clinic or camera are not. A group of m rows gives each of them the weight 1 / m in the
    quantile, as Lee, Barber and Willett have it, so nothing is drawn and no row is lost.

    Rows without any expert say nothing and are left out here; their set is all classes. A
    `target_prevalence` that is set now is kept for the sets, whatever it becomes. Class-conditional
    coverage does not depend on how frequent the classes are.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), chapter 4 (inductive
    and Mondrian predictors). Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers
    (2019). Romano, Sesia and Candes, Classification with Valid and Adaptive Coverage (2020), here
    without its random part. Dunn, Wasserman and Ramdas, Distribution-Free Prediction Sets for
    Two-Layer Hierarchical Models (2022). Lee, Barber and Willett, Distribution-Free Inference with
    Hierarchical Data (2023). Ding et al., Class-Conditional Conformal Prediction with Many Classes
    (2023).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import ConceptBottleneckClassifier, calibrate_sets
    >>> X, y = load_wine(return_X_y=True)
    >>> clf = ConceptBottleneckClassifier(alpha=1.0).fit(X[::3, :2], y[::3])
    >>> calibrated = calibrate_sets(clf, X[1::3, :2], y[1::3])
    >>> sets = calibrated.predict_set(X[2::3, :2], coverage=0.9)
    >>> is_true = y[2::3, None] == clf.classes_
    >>> sets.shape, bool(sets[is_true].mean() > 0.8)
    ((59, 3), True)
    """
    model, classifier = fitted_classifier("calibrate_sets", model)
    _refuse_many_labels(classifier)
    check_choice("calibrate_sets", "method", method, METHODS)
    if not isinstance(class_conditional, bool | np.bool_):
        raise parameter_error(
            "calibrate_sets", "class_conditional", "True or False", class_conditional
        )
    labels = check_labels(y, classifier.classes_)
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    if n != len(labels):
        raise InputError(f"X has {n:,} rows and y has {len(labels):,}. Give one class per row.")
    group_of_row = group_of_rows(groups, n)
    shift = np.zeros(len(classifier.classes_))
    shift += prevalence_shift(classifier, classifier.target_prevalence)
    proba, seen = _probabilities(classifier, features_for(model, X), shift)
    if not seen.any():
        raise InputError(
            f"None of the {n:,} calibration rows has an expert that could read it. Give images "
            "that can be opened."
        )
    codes = codes_of(labels, classifier.classes_)[seen]
    scores = nonconformity(proba[seen], method)[np.arange(len(codes)), codes]
    cells = codes if class_conditional else np.zeros_like(codes)
    _, group, sizes = np.unique(
        np.stack([group_of_row[seen], cells]), axis=1, return_inverse=True, return_counts=True
    )
    order = np.lexsort((scores, cells))
    calibrated = copy.copy(classifier)
    calibrated.set_calibration_ = SetCalibration(
        method,
        bool(class_conditional),
        scores[order],
        (1.0 / sizes[group.ravel()])[order],
        cells[order].astype(np.int64),
        shift,
    )
    return with_classifier(model, calibrated)


def predict_set(model, images, coverage=0.9, *, allow_empty=False):
    """Return for each image the classes that may be the true one.

    Parameters
    ----------
    model : classifier or Pipeline
        That `calibrate_sets` returned.
    images : array-like of length n
        Whatever the model's `predict` takes.
    coverage : float in (0, 1), default=0.9
        How often the true class is to be in its set.
    allow_empty : bool, default=False
        Whether a set may be empty where no class is probable enough. False puts into such a set the
        class that would be the first in it at a higher coverage (of sets that are not
        class-conditional the most probable one), so that the coverage may be higher than asked.

    Returns
    -------
    ndarray of shape (n, K), bool
        True where the class is in the set; columns as in `classes_`.

    Raises
    ------
    InputError
        If the model is not calibrated, or the coverage is out of range.

    Warns
    -----
    SkmoecbmWarning
        Where there are too few calibration rows for the coverage, so that all classes, or those
        named, are in every set; and of rows that no expert could read, whose sets hold all.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skmoecbm import ConceptBottleneckClassifier, calibrate_sets, predict_set
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> y = np.where(X[:, 0] + rng.normal(size=300) > 0, "nevus", "melanoma")
    >>> model = make_pipeline("passthrough", ConceptBottleneckClassifier(alpha=1.0))
    >>> model = calibrate_sets(model.fit(X[:100], y[:100]), X[100:200], y[100:200])
    >>> sets = predict_set(model, X[200:], coverage=0.9)
    >>> is_true = y[200:, None] == model.classes_
    >>> bool(0.8 < sets[is_true].mean() < 1)
    True
    """
    model, classifier = fitted_classifier("predict_set", model)
    return classifier.predict_set(features_for(model, images), coverage, allow_empty=allow_empty)


def sets_of(classifier, X, coverage, allow_empty):
    """Return the sets (n, K), bool, of a fitted classifier; see its method `predict_set`."""
    _refuse_many_labels(classifier)
    is_number = isinstance(coverage, int | float | np.number)
    if not is_number or isinstance(coverage, bool) or not 0 < coverage < 1:
        raise parameter_error(
            "predict_set", "coverage", "a number greater than 0 and less than 1", coverage
        )
    if not isinstance(allow_empty, bool | np.bool_):
        raise parameter_error("predict_set", "allow_empty", "True or False", allow_empty)
    calibration = getattr(classifier, "set_calibration_", None)
    if calibration is None:
        raise InputError(
            "This model has no calibration for sets of classes (neither a new fit nor a view of "
            "`without` has one). Pass it to calibrate_sets, with images that it was not fitted on."
        )
    thresholds, n_groups = calibration.thresholds(coverage)
    _tell_too_few(classifier, calibration, coverage, thresholds, n_groups)
    proba, seen = _probabilities(classifier, X, calibration.shift)
    sets = nonconformity(proba, calibration.method) <= thresholds + TIE
    if not allow_empty:
        empty = np.flatnonzero(~sets.any(axis=1))
        sets[empty, calibration.first_to_enter(proba[empty])] = True
    sets[~seen] = True
    if not seen.all():
        words = classifier._block_words
        warnings.warn(
            f"{(~seen).sum():,} row(s) have no {words.one} at all (rows "
            f"{np.flatnonzero(~seen)[:5].tolist()}); their sets hold all classes. "
            f"{words.nothing}",
            SkmoecbmWarning,
            stacklevel=3,
        )
    return sets


def sets_to_lists(sets, classes):
    """Return the classes of each set as a list.

    Parameters
    ----------
    sets : array-like of shape (n, K), bool
        From `predict_set`.
    classes : array-like of shape (K,)
        The model's `classes_`.

    Returns
    -------
    list of list of label, length n
        In the order of `classes`.

    Raises
    ------
    InputError
        If `sets` has another shape, or is not of bool.

    Examples
    --------
    >>> sets_to_lists([[True, False, True], [False, False, False]], ["akiec", "bcc", "mel"])
    [['akiec', 'mel'], []]
    """
    classes = np.asarray(classes)
    sets = np.asarray(sets)
    if sets.ndim != 2 or sets.shape[1] != len(classes) or sets.dtype != bool:
        raise InputError(
            f"sets must be of bool and shape (n, K) = (n, {len(classes)}), one column per class. "
            f"Got {sets.dtype} of shape {sets.shape}; pass what predict_set returns."
        )
    return [classes[row].tolist() for row in sets]


def _refuse_many_labels(classifier):
    if classifier.multilabel_:
        raise InputError(
            "Sets of classes are for models that give each row one class, and this one is of many "
            "labels: its prediction is a set already. Choose how easily a label is said with "
            "tune_thresholds."
        )


def _probabilities(classifier, X, shift):
    """Return probabilities (n, K), and which rows (n,) have an expert."""
    data, _ = classifier._read(X)
    masked = [
        *getattr(classifier, "masked_experts_", ()),
        *getattr(classifier, "masked_streams_", ()),
    ]
    seen = np.any([own.present for own in data if own.name not in masked], axis=0)
    with warnings.catch_warnings():
        # That such rows get the class frequencies is not what happens to them here.
        warnings.filterwarnings("ignore", ".*have no .* at all", SkmoecbmWarning)
        return softmax(classifier._class_logits(X) + shift, axis=1), seen


def _tell_too_few(classifier, calibration, coverage, thresholds, n_groups):
    """Warn of the classes that are in every set, since there are too few rows to tell."""
    lost = np.flatnonzero(np.isinf(thresholds))
    if len(lost) == 0:
        return
    need = int(np.ceil(coverage / (1.0 - coverage) - 1e-9))
    if calibration.class_conditional:
        named = [f"{classifier.classes_.tolist()[k]!r} ({n_groups[k]:,})" for k in lost[:10]]
        more = ", ..." if len(lost) > 10 else ""
        told = (
            f"of each class; {', '.join(named)}{more} had fewer, so every set holds "
            f"{'it' if len(lost) == 1 else 'them'}. Calibrate on more of them, or ask for less."
        )
    else:
        most = n_groups[0] / (n_groups[0] + 1)
        told = (
            f"and there were {n_groups[0]:,}, so every set holds all classes. Calibrate on more, "
            f"or ask for {np.floor(1000 * most) / 1000:g} at most."
        )
    warnings.warn(
        f"A coverage of {coverage:g} needs {need:,} calibration rows (or groups) at least {told}",
        SkmoecbmWarning,
        stacklevel=4,
    )
