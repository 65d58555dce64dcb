"""What the author of a model adds to its card: words, measured numbers, pictures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from skmoecbm._card_numbers import numbers_of
from skmoecbm._evaluation import Evaluation
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["CardDetails", "ReportedMetrics", "checked_details", "reported_metrics"]

MAX_IMAGES = 16
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class ReportedMetrics:
    """Numbers for a model card, with the data they were measured on.

    Parameters
    ----------
    evaluation : Evaluation, or mapping
        What `evaluate` returned, or its `to_dict()`. A plain mapping of metric to number is told
        as "given by the author, without intervals".
    dataset : str, default=None
        Name of the data, such as "HAM10000"; the card says where it is not stated.
    split : str, default=None
        The part of it, such as "test".
    group_disjoint : bool, default=None
        Whether no lesion, patient or study of this part is in the training data. None: the card
        says that it is not stated.
    dataset_id : str, default=None
        The data's name on the Hugging Face Hub, if they are there.

    Raises
    ------
    InputError
        If a value is not of its kind.

    Examples
    --------
    >>> from skmoecbm import ConceptBottleneckClassifier, ReportedMetrics, evaluate
    >>> X = [[0.0], [0.1], [0.8], [0.9]] * 5
    >>> y = [0, 0, 1, 1] * 5
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    >>> found = evaluate(model, X, y, n_bootstrap=0)
    >>> ReportedMetrics(found, dataset="toy", split="train", group_disjoint=False).split
    'train'
    """

    evaluation: object
    dataset: str | None = None
    split: str | None = None
    group_disjoint: bool | None = None
    dataset_id: str | None = None
    numbers: dict = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "numbers", numbers_of(self.evaluation))
        for name in ("dataset", "split"):
            _check_text("ReportedMetrics", name, getattr(self, name))
        if self.group_disjoint not in (True, False, None):
            wanted = "True, False or None (not stated)"
            raise parameter_error("ReportedMetrics", "group_disjoint", wanted, self.group_disjoint)
        _check_pattern("ReportedMetrics", "dataset_id", self.dataset_id, _HUB_ID, "org/name")


@dataclass(frozen=True)
class CardDetails:
    """What the author of a model says in its card; all of it may be left out.

    Texts are shown as plain text: Markdown and HTML in them have no effect, and a blank line
    begins a paragraph.

    Parameters
    ----------
    title : str, default=None
    description, intended_use, out_of_scope, training_data, limits : str, default=None
        Added to what the card says by itself.
    license : str, default=None
        Of the model, as the Hugging Face Hub spells licences ("mit", "cc-by-nc-4.0"); without it
        the card says that none is stated.
    authors : str or list of str, default=()
    datasets : str or list of str, default=()
        Names on the Hub of the data the model was fitted on. Data that are not there stand in
        `training_data`.
    citation : str, default=None
        BibTeX to cite beside the package.
    language : str or list of str, default="en"
        Of the concepts: codes of two or three letters.
    pictures : bool, default=None
        Whether to draw the concepts' weights, a PNG for each expert. None: where the model is
        pushed to the Hub, since each takes about a second.
    images : list of at most 16 images, default=()
        Shown in the card, made smaller (512 pixels) and freed of names and EXIF data, each with
        what the model says of it. **They become public with the card**: never give an image of a
        patient without leave.

    Raises
    ------
    InputError
        If a value is not of its kind.

    Examples
    --------
    >>> from skmoecbm import CardDetails
    >>> CardDetails(title="Lesions by words", license="cc-by-nc-4.0").language
    ('en',)
    """

    title: str | None = None
    description: str | None = None
    intended_use: str | None = None
    out_of_scope: str | None = None
    training_data: str | None = None
    limits: str | None = None
    license: str | None = None
    authors: str | tuple = ()
    datasets: str | tuple = ()
    citation: str | None = None
    language: str | tuple = "en"
    pictures: bool | None = None
    images: tuple = ()

    def __post_init__(self):
        for name in ("authors", "datasets", "language"):
            values = getattr(self, name)
            values = (values,) if isinstance(values, str) else values
            if not isinstance(values, list | tuple) or len(values) > 100:
                raise parameter_error("CardDetails", name, "a str or a list of at most 100", values)
            for value in values:
                _check_text("CardDetails", name, value, optional=False)
            object.__setattr__(self, name, tuple(values))
        for one in fields(self):
            if one.name not in ("authors", "datasets", "language", "pictures", "images"):
                _check_text("CardDetails", one.name, getattr(self, one.name))
        licences = "a licence as the Hugging Face Hub spells it, such as 'mit' or 'cc-by-nc-4.0'"
        _check_pattern("CardDetails", "license", self.license, _LICENCE, licences)
        for value in self.datasets:
            wanted = "names on the Hugging Face Hub, such as 'org/name' (others: training_data)"
            _check_pattern("CardDetails", "datasets", value, _HUB_ID, wanted)
        for value in self.language:
            _check_pattern("CardDetails", "language", value, _LANGUAGE, "a code such as 'en'")
        if self.pictures not in (True, False, None):
            raise parameter_error("CardDetails", "pictures", "True, False or None", self.pictures)
        if not isinstance(self.images, list | tuple):
            kind = type(self.images).__name__
            raise parameter_error("CardDetails", "images", "a list of images", kind)
        if len(self.images) > MAX_IMAGES:
            raise InputError(
                f"A card shows at most {MAX_IMAGES} images. Got {len(self.images):,}; choose some."
            )
        object.__setattr__(self, "images", tuple(self.images))


def checked_details(card):
    """Return the `CardDetails` that `save(card=...)` was given, or empty ones."""
    if card is not None and not isinstance(card, CardDetails):
        raise parameter_error("save", "card", "a CardDetails", card)
    return CardDetails() if card is None else card


def reported_metrics(metrics):
    """Return what `save(metrics=...)` takes as a tuple of `ReportedMetrics`.

    Raises
    ------
    InputError
        If it is neither numbers nor a list of them, or names the same data twice.
    """
    if metrics is None:
        return ()
    if not isinstance(metrics, list | tuple):
        metrics = [metrics]
    found = []
    for one in metrics:
        if isinstance(one, Evaluation | Mapping):
            one = ReportedMetrics(one)
        if not isinstance(one, ReportedMetrics):
            wanted = "ReportedMetrics, what evaluate() returned, or a list of these"
            raise parameter_error("save", "metrics", wanted, one)
        found.append(one)
    named = [(one.dataset, one.split) for one in found]
    if len(set(named)) < len(named):
        raise InputError(
            "The 'metrics' parameter of save names the same data twice. Give each "
            "ReportedMetrics its own dataset= or split=."
        )
    return tuple(found)


def _check_text(owner, name, value, optional=True):
    if (value is None and optional) or (isinstance(value, str) and 0 < len(value.strip()) <= 20000):
        return
    raise parameter_error(owner, name, "a text of at most 20,000 characters", value)


def _check_pattern(owner, name, value, pattern, wanted):
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise parameter_error(owner, name, wanted, value)
