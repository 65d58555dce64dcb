"""Fit experts again under the edits of a model: weights that must be zero or of one sign."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skmoecbm._association import AssociationProblem
from skmoecbm._base import Reading
from skmoecbm._constrained import solve_bounded
from skmoecbm._heads import own_targets
from skmoecbm._joint import JointTraining
from skmoecbm._labels import is_exclusive
from skmoecbm._provenance import with_refit
from skmoecbm._similarities import Similarities
from skmoecbm._target import Target
from skmoecbm._targets import encode_labels, label_cells, row_weights
from skmoecbm._validation import resolve_device
from skmoecbm.exceptions import InputError

__all__ = ["refit_heads"]


def refit_heads(classifier, X, y, log, experts, sample_weight=None):
    """Fit the heads of some experts again, each from where it is, and mark the log.

    Everything but weights and intercepts stays: alpha, prior, the units of the concepts (mean and
    standard deviation of the first training), gate and temperatures.

    Parameters
    ----------
    classifier : copy of a fitted classifier
        Its heads are changed.
    X, y : features and labels
    log : list of dict
        All edits of the model; those of the refitted experts are obeyed.
    experts : set of str
    sample_weight : array-like of shape (n,), default=None
    """
    _check(classifier, experts)
    data, gate_values = classifier._read(X)
    classes, codes = encode_labels(classifier, y, data[0].shape[0])
    if classes.tolist() != classifier.classes_.tolist():
        raise InputError(
            f"refit has the classes {classes.tolist()[:10]}, and the model knows "
            f"{classifier.classes_.tolist()[:10]}. Give rows of all classes of the model."
        )
    present = np.stack([expert.present for expert in data], axis=1)
    weights = row_weights(classifier, sample_weight, classifier.class_weight, classes, codes)
    weights = weights * present.any(axis=1)
    if hasattr(classifier, "training_summary_"):  # not of models that older versions saved
        counts = None
        if sample_weight is not None:
            counts = row_weights(classifier, sample_weight, None, classes, codes)
        seen = (data, gate_values, codes, weights, counts)
        classifier.training_summary_ = with_refit(classifier.training_summary_, *seen, experts)
    if not is_exclusive(codes):
        codes, _ = label_cells(classifier, classifier.class_weight, classes, codes, weights)
    device = resolve_device(classifier.device, classifier)
    target = Target(codes, len(classes), weights, device)
    targets = [target] * len(data)
    if getattr(classifier, "specialized_", False):
        trust = classifier.gate_weights(Reading(data, gate_values))
        targets = own_targets(target, trust * present.sum(axis=1, keepdims=True))
    heads = getattr(classifier, "heads_", [classifier])
    for expert, head, own in zip(data, heads, targets, strict=True):
        if expert.name in experts:
            mine = [entry for entry in log if entry["expert"] == expert.name]
            _refit(head, expert, own, _signs(head, mine, classifier))
            for entry in mine:
                entry["refit"] = True


def _check(classifier, experts):
    if isinstance(getattr(classifier, "training", None), JointTraining):
        raise InputError(
            "A model of JointTraining has no experts that could be fitted alone. Leave out refit, "
            "or fit the model again without the concept."
        )
    for name, head in zip(
        classifier._layout.names, getattr(classifier, "heads_", [classifier]), strict=True
    ):
        if name in experts and head.activation == "softmax":
            raise InputError(
                f"Expert {name!r} has activation='softmax', whose weights share one sum and "
                "cannot be fitted under edits. Leave out refit, or fit the model again."
            )


def _signs(head, entries, classifier):
    """Return where A may be positive and where negative, two (K', m) arrays."""
    rises, falls = np.ones((2, *head.association_.shape), dtype=bool)
    labels = classifier.classes_.tolist()
    for entry in entries:
        j = head.concept_names_.index(entry["concept"])
        if entry["action"] == "forbid":
            rises[:, j] = falls[:, j] = False
            continue
        row, sign = labels.index(entry["label"]), entry["sign"]
        if len(rises) == 1:
            sign = sign if row == 1 else {"+": "-", "-": "+"}[sign]
            row = 0
        (falls if sign == "+" else rises)[row, j] = False
    return rises, falls


def _refit(head, expert, target, signs):
    """Solve for association and intercept of one expert, in the units of its first training."""
    z, _ = head._logits(expert)
    weights = torch.as_tensor((target.weights * expert.present)[None], device=target.device)
    problem = AssociationProblem(
        Similarities(z, target.device),
        target.matrix(),
        weights,
        standardize=False,
        cells=target.cells(),
        base_rate=target.base_rate,
    )
    problem.prior = torch.as_tensor(head.prior_association_[None], device=target.device)
    start = [
        torch.as_tensor(part[None], device=target.device)
        for part in (head.association_, head.intercept_)
    ]
    # As close to the optimum as a fit that is kept; see `solve` of the heads.
    a, b, _, converged = solve_bounded(
        problem,
        head.alpha_,
        head.l1,
        nonnegative=head.activation == "nonnegative",
        signs=signs,
        start=tuple(start),
        max_iter=head.max_iter,
        tol=(2.0 * head.tol * 0.01) ** 0.5,
    )
    if not bool(converged.all()):
        warnings.warn(
            f"The refit of expert {expert.name!r} did not converge in {10 * head.max_iter} steps. "
            "Increase max_iter of its head.",
            ConvergenceWarning,
            stacklevel=4,
        )
    if problem.exclusive:
        b = b - b.mean(1, keepdim=True)
    head.association_, head.intercept_ = a[0].cpu().numpy() + 0.0, b[0].cpu().numpy()
