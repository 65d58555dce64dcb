"""How few concepts will do: accuracy along a sparse path, against random directions."""

import numpy as np
import scipy.optimize
from scipy.special import expit, log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

from skmoecbm._audit_names import TRAINING_ROWS
from skmoecbm._audit_problem import judge_gain, show, words_of
from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm._metrics import codes_of
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._targets import indicator_of

__all__ = ["SIZES", "SparseLayer", "economy", "forward_path"]

#: Concepts per class. Those from 5 on are the ones that ANEC-avg averages over.
SIZES = (1, 5, 10, 15, 20, 25, 30)

_SECOND = {True: "macro_average_precision", False: "accuracy"}


def economy(problem):
    """Measure sparse layers of 1, 5, 10, ... concepts per class."""
    if problem.train is None:
        return not_made("economy", f"it needs training rows: {TRAINING_ROWS}.")
    values = _concept_values(problem, problem.train.X), _concept_values(problem, problem.X)
    if values[0] is None:
        return not_made("economy", "no expert has a head of concepts.")
    targets = _targets(problem)
    sizes = [size for size in SIZES if size <= values[0].shape[1]]
    ours = _curve(problem, *values, targets, sizes)
    others = []
    if problem.replaceable:
        for train, test in problem.random_draws:
            drawn = _concept_values(problem, train), _concept_values(problem, test)
            others.append(_curve(problem, *drawn, targets, sizes))
    metrics = (_SECOND[problem.multilabel], *problem.metrics)
    metrics = tuple(dict.fromkeys(metrics))
    rows, measures, gains = [], [], {}
    for i, size in enumerate(sizes):
        row = {"concepts per class": size}
        for metric in metrics:
            row |= {metric: ours[i][metric].value}
            row |= {f"{metric} low": ours[i][metric].low, f"{metric} high": ours[i][metric].high}
            if others:
                gain = problem.mean_gain(ours[i], [one[i] for one in others], metric)
                gains[size, metric] = gain
                row[f"{metric}, random"] = float(np.mean([one[i][metric].value for one in others]))
                row |= {f"{metric} gain": gain.value}
                row |= {f"{metric} gain low": gain.low, f"{metric} gain high": gain.high}
        rows.append(row)
    first, primary = metrics[0], problem.metrics[0]
    for i, size in enumerate(sizes):
        label = "concept" if size == 1 else "concepts"
        title = "ANEC-5: accuracy" if size == 5 and first == "accuracy" else first
        measures.append(Measure(f"{title}, {size} {label} per class", *ours[i][first]))
        if others:
            gain = gains[size, primary]
            told = judge_gain(gain, problem.margin)
            measures.append(Measure(f"{primary} gain over random, {size}", *gain[:3], told))
    averaged = [i for i, size in enumerate(sizes) if size >= 5]
    if averaged and first == "accuracy":
        told = ", ".join(str(sizes[i]) for i in averaged)
        mean = float(np.mean([ours[i][first].value for i in averaged]))
        measures.append(Measure(f"ANEC-avg: mean accuracy over {told}", mean))
    size = 5 if 5 in sizes else sizes[-1]
    at = ours[sizes.index(size)]
    verdict = (
        f"With {size} concept{'s' * (size != 1)} per class {words_of(first)} is "
        f"{at[first].value:.3f} and {words_of(primary)} {at[primary].value:.3f}; the whole model "
        f"has {problem.scores[first].value:.3f} and {problem.scores[primary].value:.3f}."
    )
    status = "unclear"
    notes = []
    if others:
        judged = judge_gain(gains[size, primary], problem.margin)
        status = {"better": "good", "none": "concern", "worse": "concern"}.get(judged, "unclear")
        words = {
            "better": "Chosen from as many random directions they would do worse",
            "little": "Chosen from as many random directions they would do a little worse",
            "none": "As few chosen from random directions do as well",
            "worse": "As few chosen from random directions do better",
            "unclear": "Whether as few random directions do worse cannot be told",
        }[judged]
        gain = show(gains[size, primary])
        verdict += f" {words} (gain of the concepts in {words_of(primary)}: {gain})."
    else:
        notes.append("no expert carries the embeddings of its concepts: no random control")
    return Check(
        "economy",
        status,
        verdict,
        tuple(measures),
        {"accuracy by concepts per class": rows},
        tuple(notes),
    )


def _concept_values(problem, X):
    """Return the values of all concept experts side by side (n, m), NaN where absent, or None."""
    data, _ = problem.classifier._read(X)
    mine = [
        expert.values
        for expert, head in zip(data, problem.heads, strict=True)
        if isinstance(head, ConceptBottleneckClassifier)
    ]
    return np.concatenate(mine, axis=1) if mine else None


def _targets(problem):
    """Return the targets of the training rows (n, K'), row weights (n,), and exclusiveness."""
    classes, y = problem.classifier.classes_, problem.train.y
    weight = problem.classifier.class_weight
    if problem.multilabel:
        return indicator_of(y, classes), np.ones(len(y)), False
    y = np.asarray(y).ravel()
    weights = compute_sample_weight(weight, y) if weight is not None else np.ones(len(y))
    codes = codes_of(y.tolist(), classes)
    if len(classes) == 2:
        return (codes[:, None] == 1).astype(float), weights, True
    return (codes[:, None] == np.arange(len(classes))).astype(float), weights, True


def _curve(problem, train, test, targets, sizes):
    """Return the evaluation of the sparse layer of each size."""
    mean, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    train, test = (np.nan_to_num((part - mean) / scale) for part in (train, test))
    target, weights, exclusive = targets
    path = forward_path(train, target, weights, sizes[-1])
    found = []
    for size in sizes:
        supports = [order[:size] for order in path]
        layer = SparseLayer(supports, exclusive).fit(train, target, weights)
        found.append(problem.evaluate(layer.predict_proba(test)))
    return found


def forward_path(Z, target, weights, n_steps):
    """Return which concepts enter for each output, the strongest first.

    Orthogonal matching pursuit on the weighted, centred target: each step takes the concept most
    correlated with what the least squares of those taken leave over.

    Parameters
    ----------
    Z : ndarray of shape (n, m)
    target : ndarray of shape (n, K')
    weights : ndarray of shape (n,)
    n_steps : int

    Returns
    -------
    list of K' lists of int, at most `n_steps` long

    References
    ----------
    Pati, Rezaiifar and Krishnaprasad, "Orthogonal Matching Pursuit" (1993).
    """
    share = weights / weights.sum()
    Z = Z - share @ Z
    root = np.sqrt(share)[:, None]
    Z, target = root * Z, root * (target - share @ target)
    length = np.sqrt((Z**2).sum(axis=0))
    Z = Z / np.where(length > 0, length, 1.0)
    gram, products = Z.T @ Z, Z.T @ target
    path = []
    for wanted in products.T:
        order, left = [], wanted.copy()
        while len(order) < min(n_steps, len(wanted)):
            left[order] = 0.0
            best = int(np.abs(left).argmax())
            if abs(left[best]) < 1e-10:
                break
            order.append(best)
            solution = np.linalg.lstsq(gram[np.ix_(order, order)], wanted[order], rcond=None)[0]
            left = wanted - gram[:, order] @ solution
        path.append(order)
    return path


class SparseLayer:
    """A logistic regression in which each output sees its own few concepts.

    The mean weighted loss plus ``|w|^2 / (2 sum of weights)``, as scikit-learn's C = 1.

    Parameters
    ----------
    supports : list of K' lists of int
        The concepts of each output; a single output is of two classes.
    exclusive : bool
        Softmax over the outputs, else each by itself.
    """

    def __init__(self, supports, exclusive):
        self.supports, self.exclusive = supports, exclusive

    def fit(self, Z, target, weights):
        """Fit to Z (n, m), target (n, K') and row weights (n,)."""
        used = sorted({c for support in self.supports for c in support})
        place = {concept: i for i, concept in enumerate(used)}
        mask = np.zeros((len(used), len(self.supports)), dtype=bool)
        for k, support in enumerate(self.supports):
            mask[[place[concept] for concept in support], k] = True
        Z, share = Z[:, used], (weights / weights.sum())[:, None]
        softmaxed = self.exclusive and len(self.supports) > 1

        def unpack(parameters):
            matrix = np.zeros(mask.shape)
            matrix[mask] = parameters[: mask.sum()]
            return matrix, parameters[mask.sum() :]

        def loss(parameters):
            matrix, intercept = unpack(parameters)
            logits = Z @ matrix + intercept
            if softmaxed:
                value = -(share * target * log_softmax(logits, axis=1)).sum()
                error = softmax(logits, axis=1) - target
            else:
                value = (share * (np.logaddexp(0, logits) - target * logits)).sum()
                error = expit(logits) - target
            error = share * error
            slope = (Z.T @ error + matrix / weights.sum())[mask]
            value += (matrix**2).sum() / (2 * weights.sum())
            return value, np.concatenate([slope, error.sum(axis=0)])

        start = np.zeros(mask.sum() + len(self.supports))
        found = scipy.optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}
        )
        matrix, self.intercept_ = unpack(found.x)
        self.used_, self.coef_ = used, matrix
        return self

    def predict_proba(self, Z):
        """Return probabilities (n, K)."""
        logits = Z[:, self.used_] @ self.coef_ + self.intercept_
        if not self.exclusive:
            return expit(logits)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return softmax(logits, axis=1)
