"""The numbers of a report that need labels: the model beside its experts and their average."""

import copy
import warnings

import numpy as np
from sklearn.base import clone

from skmoecbm._evaluate import evaluate
from skmoecbm._gating import GateState
from skmoecbm.exceptions import SkmoecbmWarning

__all__ = ["AVERAGE", "HEADLINES", "METRICS", "OURS", "compare", "confusion"]

OURS, AVERAGE = "this model", "plain average"

#: Metric -> (name, what it is, whether less is better).
METRICS = {
    "accuracy": ("Accuracy", "share of rows whose likeliest class is the true one", False),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes", False),
    "macro_auroc": ("Macro-AUROC", "one class against the others, mean over classes", False),
    "micro_auroc": ("Micro-AUROC", "over all rows and labels at once", False),
    "macro_average_precision": ("Macro average precision", "mean over labels", False),
    "micro_average_precision": ("Micro average precision", "over all rows and labels", False),
    "macro_f1": ("Macro F1", "of what is said, mean over labels", False),
    "micro_f1": ("Micro F1", "of what is said, over all rows and labels", False),
    "log_loss": ("Log-loss", "nats; less is better", True),
    "brier": ("Brier score", "squared error of the probabilities; less is better", True),
    "ece": (
        "Calibration error",
        "how far probabilities are from frequencies; less is better",
        True,
    ),
}

#: What the model is compared by: of one class per row, of several labels.
HEADLINES = {
    False: ("balanced_accuracy", "macro_auroc", "log_loss"),
    True: ("macro_auroc", "macro_average_precision", "log_loss"),
}


def compare(classifier, features, y, *, train=None, groups=None, **settings):
    """Evaluate a fitted classifier, each of its experts alone, and their plain average.

    Parameters
    ----------
    classifier : ConceptBottleneckClassifier or GatedConceptBottleneckClassifier
    features : what its `predict` takes, n rows
    y : labels of n rows
    train : tuple (features, y, groups) or None
        With it the plain average is fitted; without, it is that of the fitted experts.
    groups : array of shape (n,) or None
    **settings
        `n_bootstrap`, `confidence` and `random_state` of `evaluate`: the same resamples for all.

    Returns
    -------
    results : dict of str to Evaluation
        The model first.
    notes : list of str
        What a reader of the comparison should know.
    """
    arms, notes = {OURS: classifier}, []
    names = _heard(classifier)
    if len(names) > 1:
        arms |= {f"{name} alone": alone(classifier, name) for name in names}
        if classifier.selected_ == "uniform":
            notes.append(
                "The model is the plain average of its experts, so it has no row of its own."
            )
        else:
            arms[AVERAGE], note = _plain_average(classifier, train)
            notes.append(note)
        notes += _unseen(classifier, features, names)
        if classifier.specialized_:
            notes.append(
                "The experts learned for this gate, each most from the rows that it is trusted on: "
                "alone they are weaker than experts that were fitted to be alone."
            )
    with warnings.catch_warnings():
        # Rows that a lone expert cannot see are told in the notes.
        warnings.filterwarnings("ignore", ".*have no .* at all", SkmoecbmWarning)
        results = {
            name: evaluate(arm, features, y, groups=groups, **settings)
            for name, arm in arms.items()
        }
    return results, notes


def _heard(classifier):
    """Return the names of the experts that a mixture listens to; none of a single expert's."""
    masked = getattr(classifier, "masked_experts_", ())
    return [name for name in getattr(classifier, "expert_names_", ()) if name not in masked]


def alone(mixture, name):
    """Return the view of a mixture that listens to one expert only."""
    for other in _heard(mixture):
        mixture = mixture if other == name else mixture.without(other)
    return mixture


def _plain_average(classifier, train):
    """Return the plain average of the same experts, and what it is."""
    if train is not None:
        features, y, groups = train
        average = clone(classifier).set_params(gate="uniform")
        return average.fit(features, y, groups=groups), (
            "The plain average was fitted on the training rows, as the model was."
        )
    average = copy.copy(classifier)
    average.gate_state_ = GateState("uniform")
    return average, (
        "The plain average is that of the fitted experts at equal weights; without training rows "
        "it could not be fitted by itself."
    )


def _unseen(classifier, features, names):
    """Return a sentence for each expert that misses rows: there it can only guess."""
    logits = classifier.expert_logits(features)
    shape = (len(logits), len(classifier.expert_names_), -1)
    present = ~np.isnan(logits.reshape(shape)).all(axis=2)
    counts = dict(zip(classifier.expert_names_, (~present).sum(axis=0), strict=True))
    return [
        f"{name} did not see {counts[name]:,} of {len(present):,} rows; alone it has the class "
        "frequencies of the training there."
        for name in names
        if counts[name]
    ]


def confusion(y, predicted, n_classes, multilabel):
    """Return the counts of truths and predictions.

    Parameters
    ----------
    y, predicted : ndarray of shape (n,), int in [0, K); or (n, K) of 0 and 1 for labels
    n_classes : int
    multilabel : bool

    Returns
    -------
    ndarray, int
        (K, K), truth in rows; or (K, 4) of labels: hits, missed, false alarms, rightly not said.
    """
    if not multilabel:
        counts = np.zeros((n_classes, n_classes), dtype=int)
        np.add.at(counts, (y, predicted), 1)
        return counts
    has, said = np.asarray(y) == 1, np.asarray(predicted) == 1
    cells = (has & said, has & ~said, ~has & said, ~has & ~said)
    return np.stack([cell.sum(axis=0) for cell in cells], axis=1)
