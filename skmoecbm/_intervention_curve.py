"""How much a model gains when people put its concepts right."""

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._base import Reading
from skmoecbm._concept_cells import list_of_names, quantiles_of, replace_cells, wanted_cells
from skmoecbm._intervene import explained, read_rows
from skmoecbm._presence import annotation_table
from skmoecbm._ranges import percentiles
from skmoecbm._targets import indicator_of
from skmoecbm._validation import check_choice, check_number, parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import read_images

__all__ = ["InterventionCurve", "intervention_curve"]

_POLICIES = ("random", "contribution", "uncertain")


class InterventionCurve:
    """Accuracy against the number of concepts that were put right; made by `intervention_curve`.

    Attributes
    ----------
    n_corrected : ndarray of shape (T + 1,), int
        0, 1, ..., T concepts per image; an image with fewer annotated ones has all of its own.
    accuracy, balanced_accuracy : dict of str to ndarray of shape (R, T + 1), float64
        By policy, a row for each repetition (one but for "random"), in [0, 1]. Of several labels
        means over labels.
    predicted : dict of str to ndarray of shape (R, T + 1, n) or (R, T + 1, n, K)
        What the model said.
    ax_, figure_
        After `plot`.
    """

    def __init__(self, predicted, y, classes):
        self.predicted = predicted
        self.n_corrected = np.arange(next(iter(predicted.values())).shape[1])
        scored = {
            policy: np.array([[_scores(y, one, classes) for one in run] for run in runs])
            for policy, runs in predicted.items()
        }
        self.accuracy = {policy: scores[:, :, 0] for policy, scores in scored.items()}
        self.balanced_accuracy = {policy: scores[:, :, 1] for policy, scores in scored.items()}

    def to_frame(self):
        """Return one line per policy and number of concepts.

        Returns
        -------
        DataFrame
            `policy`, `n_corrected`, `balanced_accuracy`, `accuracy` (means over repetitions), and
            `balanced_accuracy_sd`, their standard deviation (NaN of one).
        """
        import pandas as pd

        tables = [
            pd.DataFrame(
                {
                    "policy": policy,
                    "n_corrected": self.n_corrected,
                    "balanced_accuracy": balanced.mean(axis=0),
                    "accuracy": self.accuracy[policy].mean(axis=0),
                    "balanced_accuracy_sd": balanced.std(axis=0, ddof=1)
                    if len(balanced) > 1
                    else np.nan,
                }
            )
            for policy, balanced in self.balanced_accuracy.items()
        ]
        return pd.concat(tables, ignore_index=True)

    def plot(self, ax=None):
        """Draw balanced accuracy against the number of corrected concepts, a line per policy.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None makes a figure that is not tied to a window.

        Returns
        -------
        InterventionCurve
            Itself, with `ax_` and `figure_`.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 4), layout="constrained").add_subplot()
        # told apart with any colour vision, and without colours by their marks
        styles = {"random": ("#666666", "o"), "contribution": ("#0072B2", "s")}
        for policy, runs in self.balanced_accuracy.items():
            colour, mark = styles.get(policy, ("#D55E00", "^"))
            mean = runs.mean(axis=0)
            ax.plot(self.n_corrected, mean, color=colour, marker=mark, label=policy)
            if len(runs) > 1:
                ax.fill_between(
                    self.n_corrected, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.2
                )
        ax.set(xlabel="concepts put right per image", ylabel="balanced accuracy")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(title="which first", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def __repr__(self):
        """Return start and end of each policy."""
        lines = [f"InterventionCurve, 0 to {self.n_corrected[-1]} concepts put right per image"]
        for policy, runs in self.balanced_accuracy.items():
            first, last = runs.mean(axis=0)[[0, -1]]
            lines.append(f"  {policy}: balanced accuracy {first:.3f} -> {last:.3f}")
        return "\n".join(lines)


def intervention_curve(
    model,
    images,
    y,
    annotations,
    *,
    policies=_POLICIES,
    n_concepts=None,
    values=("absent", "present"),
    experts=None,
    gate="fixed",
    n_repeats=5,
    random_state=None,
):
    """Put annotated concepts right, one after the other, and score the model each time.

    Parameters
    ----------
    model : Pipeline or classifier
        Fitted on other images than these.
    images : array-like of length n
        What the model's `predict` takes.
    y : array-like of shape (n,), or indicator of shape (n, K), dense, sparse or a DataFrame
    annotations : DataFrame of n rows, or dict of str to sequence of length n
        Concept (a name of the model's, or ``"expert__concept"``) -> 1 present, 0 absent, NaN not
        judged, which is never set.
    policies : str or list of str, default=("random", "contribution", "uncertain")
        Which concept of an image comes first. ``"random"``: any, in `n_repeats` orders.
        ``"contribution"``: the one whose contribution differs most between the classes (of two: is
        the largest). ``"uncertain"``: the one whose value is nearest to the median of the training
        images. All are of the decision before any correction.
    n_concepts : int or None, default=None
        At most so many; None goes on to all that are annotated.
    values : tuple of two values, default=("absent", "present")
        What an annotation of 0 and of 1 sets the concept to, as in `intervene`.
    experts, gate
        As in `intervene`.
    n_repeats : int, default=5
    random_state : int, RandomState or None, default=None

    Returns
    -------
    InterventionCurve

    Raises
    ------
    InputError
        For a concept that the model does not have, or lengths that differ.

    Notes
    -----
    A rise tells that the model would decide better if it saw these concepts as people do. A curve
    on shuffled annotations beside it tells whether that is due to the truth of the annotations.

    References
    ----------
    Koh et al., Concept Bottleneck Models (2020), section 5; Shin et al., A Closer Look at the
    Intervention Procedure of Concept Bottleneck Models (2023), on policies.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures, intervention_curve
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 2, (200, 2))
    >>> seen = truth + rng.normal(scale=0.7, size=(200, 2))
    >>> X = ExpertFeatures.from_similarities({"clip": (seen, ["veil", "round"])})
    >>> model = ConceptBottleneckClassifier().fit(X[:100], truth[:100].sum(axis=1))
    >>> named = {"veil": truth[100:, 0], "round": truth[100:, 1]}
    >>> curve = intervention_curve(model, X[100:], truth[100:].sum(axis=1), named, random_state=0)
    >>> start, end = curve.balanced_accuracy["contribution"][0, [0, -1]]
    >>> bool(start < 0.8 < end)
    True
    """
    owner = "intervention_curve"
    policies = list_of_names(owner, "policies", policies)
    if not policies:
        raise parameter_error(owner, "policies", f"some of {_POLICIES}", policies)
    for policy in policies:
        check_choice(owner, "policies", policy, _POLICIES)
    check_choice(owner, "gate", gate, ("fixed", "follow"))
    check_number(owner, "n_repeats", n_repeats, low=1, integer=True)
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise parameter_error(owner, "values", "two values, for absent and present", values)
    rng = check_random_state(random_state)
    classifier, features, _ = read_images(owner, model, images)
    reading = read_rows(classifier, features)
    n = reading.data[0].shape[0]
    names, truth = annotation_table(annotations, n)
    y = indicator_of(y, classifier.classes_) if classifier.multilabel_ else np.asarray(y)
    if len(y) != n:
        raise InputError(f"y has {len(y)} labels for {n} images. Give one per image.")
    cells = [
        [wanted_cells(owner, classifier, {name: value}, experts) for value in values]
        for name in names
    ]
    steps = int((~np.isnan(truth)).sum(axis=1).max())
    if n_concepts is not None:
        check_number(owner, "n_concepts", n_concepts, low=1, integer=True)
        steps = min(steps, n_concepts)
    if not steps:
        raise InputError("No cell of annotations is 0 or 1. Give at least one that was judged.")
    places = [[(cell.expert, cell.concept) for cell in pair[0]] for pair in cells]
    held = reading.data if gate == "fixed" else None
    predicted = {}
    for policy in policies:
        runs = []
        for _ in range(n_repeats if policy == "random" else 1):
            priority = _priority(policy, classifier, reading, places, rng)
            rank = np.where(np.isnan(truth), -np.inf, priority).argsort(axis=1)[:, ::-1]
            rank = rank.argsort(axis=1)  # the place of each concept in the order of its row
            runs.append(
                [
                    classifier.predict(
                        Reading(
                            _corrected(reading.data, cells, truth, rank < t),
                            reading.gate_values,
                            held,
                        )
                    )
                    for t in range(steps + 1)
                ]
            )
        predicted[policy] = np.array(runs)
    return InterventionCurve(predicted, y, classifier.classes_)


def _corrected(data, cells, truth, chosen):
    """Return the experts with the chosen (n, C) annotated concepts set to what is true of them."""
    flat, rows = [], []
    for c, (absent, present) in enumerate(cells):
        for judged, own in ((0, absent), (1, present)):
            mine = np.flatnonzero(chosen[:, c] & (truth[:, c] == judged))
            flat += own
            rows += [mine] * len(own)
    return replace_cells(data, flat, rows)


def _priority(policy, classifier, reading, places, rng):
    """Return how early each concept is to be put right, (n, C); the largest is the first."""
    shape = (reading.data[0].shape[0], len(places))
    if policy == "random":
        return rng.random_sample(shape)
    priority = np.zeros(shape)
    if policy == "contribution":
        parts = explained(classifier, reading).contributions
        for c, own in enumerate(places):
            if any(j >= parts[e].shape[1] for e, j in own):
                raise InputError(
                    "policy 'contribution' needs experts that are linear in their concepts. Use "
                    "'random' or 'uncertain', or name the linear ones in experts."
                )
            sums = sum(parts[e][:, j] for e, j in own)
            alone = sums.shape[1] == 1 or classifier.multilabel_
            priority[:, c] = np.abs(sums).max(axis=1) if alone else np.ptp(sums, axis=1)
        return priority
    for c, own in enumerate(places):
        for e, j in own:
            ranges = quantiles_of(classifier, e)
            if ranges is None:
                raise InputError(
                    "policy 'uncertain' needs the training range of the concepts, which this model "
                    "does not know (an older version fitted it). Fit it again, or leave it out."
                )
            place = percentiles(reading.data[e].values[:, [j]], ranges[[j]])[:, 0]
            priority[:, c] -= np.where(np.isnan(place), 50.0, np.abs(place - 50.0)) / len(own)
    return priority


def _scores(y, predicted, classes):
    """Return accuracy and balanced accuracy, of several labels means over labels."""
    if predicted.ndim == 2:
        pairs = [_scores(y[:, k], predicted[:, k], (0, 1)) for k in range(len(classes))]
        return tuple(np.nanmean(pairs, axis=0))
    hit = y == predicted
    recalls = [hit[y == label].mean() for label in classes if (y == label).any()]
    return hit.mean(), np.mean(recalls)
