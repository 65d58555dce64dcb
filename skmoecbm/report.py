"""A report on a model: one HTML file that opens from the disk, without a network or a script."""

import datetime
import os
from pathlib import Path

import numpy as np

from skmoecbm._audit import audit as run_audit
from skmoecbm._audit_result import Audit
from skmoecbm._evaluate import is_indicator
from skmoecbm._explanation_tables import image_name
from skmoecbm._last_step import best_of
from skmoecbm._metrics import check_labels, codes_of
from skmoecbm._report_arms import compare, confusion
from skmoecbm._report_cases import choose_cases, explain_case, outcomes
from skmoecbm._report_page import render
from skmoecbm._report_pictures import data_uri
from skmoecbm._report_provenance import class_names, encoders_in, provenance
from skmoecbm._report_tables import concepts_by_class, members, weights_by_class
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import explain_features, read_images

__all__ = ["model_report"]


def model_report(
    model,
    images,
    y=None,
    *,
    path="report.html",
    title="Model report",
    groups=None,
    train=None,
    metadata=None,
    audit=None,
    n_cases=12,
    top=8,
    image_size=320,
    file_names=True,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=0,
    date=None,
):
    """Write what a model does on some images as one HTML file.

    Metrics with intervals beside each expert alone and their plain average, confusion, weights of
    the experts, concepts of each class, right, wrong and uncertain cases with their explanations,
    the audit, and where all of it comes from. The file holds its images and needs neither network
    nor script; it may be shared as the images may.

    Parameters
    ----------
    model : Pipeline or classifier
        As in `explain`.
    images : array-like of length n
        What the model's `predict` takes, n > 0; better not what it was fitted on.
    y : array-like of shape (n,), or indicator of shape (n, K), default=None
        True labels. Without them there are no metrics, and cases are certain or uncertain.
    path : path, default="report.html"
        The file to write; one that is there is replaced.
    title : str, default="Model report"
    groups : array-like of shape (n,), default=None
        Lesion, patient or study of each row, for the intervals.
    train : tuple (images, y) or (images, y, groups), default=None
        What the model was fitted on. With it, and `y`, an audit is made, and the plain average is
        fitted by itself.
    metadata : DataFrame of n rows, default=None
        Columns that an audit looks at subgroups by; without `train` most of its other checks
        cannot be made.
    audit : Audit, default=None
        One that was made before, shown in its place.
    n_cases : int, default=12
        Right, wrong and uncertain cases to show, each; 0 shows none.
    top : int, default=8
        Concepts shown of each class and case.
    image_size : int, default=320
        Pixels of an image's longer side: images are made smaller, and carry no EXIF data.
    file_names : bool, default=True
        Call images that were given as paths by their file's name (never its folder), and rows
        that leak by their group.
    n_bootstrap : int, default=1000
    confidence : float in (0, 1), default=0.95
    random_state : int, default=0
        Seed of resamples, the audit, and of ties among cases.
    date : str, default=None
        Shown as the day of the report; None is today.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If the model has no explanation, a parameter is out of range, lengths or labels do not
        fit, or `path` is one of the images or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import GatedConceptBottleneckClassifier, model_report
    >>> X, y = load_wine(return_X_y=True)
    >>> experts = [("left", slice(0, 6)), ("right", slice(6, 13))]
    >>> model = GatedConceptBottleneckClassifier(experts=experts).fit(X[::2], y[::2])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = model_report(model, X[1::2], y[1::2], path=f"{folder}/wine.html", n_bootstrap=50)
    ...     "Confusion" in path.read_text(encoding="utf-8")
    True
    """
    check_number("model_report", "n_cases", n_cases, low=0, integer=True)
    check_number("model_report", "top", top, low=1, integer=True)
    check_number("model_report", "image_size", image_size, low=16, high=2048, integer=True)
    check_number("model_report", "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number("model_report", "confidence", confidence, low=0, high=1, low_open=True)
    check_number("model_report", "random_state", random_state, low=0, high=2**32 - 2, integer=True)
    if audit is not None and not isinstance(audit, Audit):
        raise parameter_error("model_report", "audit", "an Audit that audit() returned", audit)
    if y is None and (train is not None or metadata is not None):
        raise InputError("model_report: an audit (train, metadata) needs labels; give y too.")
    if audit is not None and metadata is not None:
        raise InputError(
            "model_report: an audit that was made before has its own subgroups. Give metadata to "
            "audit(), or leave audit out."
        )
    model = best_of(model)
    path = _output(path, images)
    classifier, features, beside = read_images("model_report", model, images)
    explanation = explain_features(classifier, features, **beside)
    truth = None if y is None else _truth(y, classifier, len(explanation))
    settings = {
        "n_bootstrap": n_bootstrap,
        "confidence": confidence,
        "random_state": int(random_state),
    }
    page = {
        "title": str(title),
        "date": datetime.date.today().isoformat() if date is None else str(date),
        "confidence": confidence,
        "hidden_columns": () if file_names else ("group",),
        "explanation": explanation,
        "classifier": classifier,
        "truth": truth,
        "n_groups": None if groups is None else len(set(np.asarray(groups).tolist())),
    }
    if truth is not None:
        learned = None if train is None else _features_of(model, train)
        page["results"], page["arm_notes"] = compare(
            classifier, features, y, train=learned, groups=groups, **settings
        )
        said = classifier.predict(features)
        if not classifier.multilabel_:
            said = explanation.probabilities.argmax(axis=1)
        sizes = (len(explanation.classes), classifier.multilabel_)
        page["confusion"] = confusion(truth, said, *sizes)
        if audit is None and (train is not None or metadata is not None):
            given = {"train": train, "groups": groups, "metadata": metadata}
            audit = run_audit(model, images, y, **given, random_state=int(random_state))
    rows_of = members(explanation, truth)
    encoders = encoders_in(model)
    page |= {
        "audit": audit,
        "counts": rows_of.sum(axis=0).tolist(),
        "weights": weights_by_class(explanation, rows_of),
        "concepts": concepts_by_class(explanation, rows_of, top),
        "cases": _cases(explanation, truth, n_cases, top, image_size, file_names, random_state),
        "class_names": class_names(encoders, explanation.classes),
        "provenance": provenance(model, classifier, encoders, page["date"]),
    }
    text = render(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _output(path, images):
    """Return the path to write to, if it is none of the images."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise parameter_error("model_report", "path", "the path of a file", path)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"model_report: path {str(path)!r} is a folder. Name a file in it.")
    place = os.path.realpath(path)
    for image in images if isinstance(images, list | tuple | np.ndarray) else ():
        if isinstance(image, str | os.PathLike) and os.path.realpath(image) == place:
            raise InputError(
                f"model_report: path {str(path)!r} is one of the images. Give another path."
            )
    return path


def _truth(y, classifier, n):
    """Return the positions of the true classes, int (n,), or the labels, float (n, K)."""
    if classifier.multilabel_ != is_indicator(y):
        wanted = "an indicator (n, K)" if classifier.multilabel_ else "one class per row"
        raise InputError(f"model_report: y must be what the model was fitted on: {wanted}.")
    if classifier.multilabel_:
        truth = indicator_of(y, classifier.classes_)
    else:
        truth = codes_of(check_labels(y, classifier.classes_), classifier.classes_)
    if len(truth) != n:
        raise InputError(
            f"model_report: {n:,} images came with {len(truth):,} labels; give one per image, in "
            "the same order."
        )
    return truth


def _features_of(model, train):
    """Return the training rows as the classifier takes them: (features, y, groups)."""
    if not isinstance(train, tuple) or len(train) not in (2, 3):
        wanted = "a tuple (images, y) or (images, y, groups)"
        raise parameter_error("model_report", "train", wanted, type(train).__name__)
    images, y, *rest = train
    _, features, _ = read_images("model_report", model, images)
    return features, y, rest[0] if rest else None


def _cases(explanation, truth, n_cases, top, side, file_names, seed):
    """Return the cases to show, each with its explanation and its image as text."""
    seen = np.flatnonzero(explanation.present.any(axis=1))
    found = outcomes(
        explanation.probabilities[seen],
        explanation.thresholds,
        None if truth is None else truth[seen],
    )
    found["row"] = seen[found["row"]]
    pictures, cases = {}, []
    for case in choose_cases(found, n_cases, seed):
        image = None if explanation.images is None else explanation.images[case.row]
        if case.row not in pictures:
            pictures[case.row] = (
                (None, None)
                if image is None
                else data_uri(image, side, value_range=explanation.value_range)
            )
        uri, size = pictures[case.row]
        cases.append(
            {
                "case": case,
                "why": explain_case(explanation, case, top),
                "name": image_name(image) if file_names else None,
                "uri": uri,
                "size": size,
                "unreadable": image is not None and uri is None,
            }
        )
    return cases
