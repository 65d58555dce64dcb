"""The peers: what each is given, how it is made, how its concepts in use are counted."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks._experiment_runs import folds, probe
from benchmarks._peers_torch import LaBoHead, PyCBottleneck
from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier

__all__ = ["NotHere", "Peer", "peers"]


class NotHere(Exception):
    """A peer cannot run on this problem or on this machine; the message says why."""


@dataclass
class Peer:
    """One row of the table.

    Attributes
    ----------
    name : str
    given : str
        What it is fitted on, in words.
    fit : callable (problem, weights) -> (fitted, X)
        The fitted classifier and its whole input, all rows.
    additive : str
        Whether a decision is a sum over concepts.
    in_use : callable (fitted, problem) -> int, or None
        None: it has no concepts.
    note : str
    """

    name: str
    given: str
    fit: Callable
    additive: str
    in_use: Callable | None = None
    note: str = ""


def _splits(problem):
    y, groups = problem.y[problem.train], problem.groups[problem.train]
    splitter = StratifiedGroupKFold(folds(y, groups), shuffle=True, random_state=0)
    return list(splitter.split(y, y, groups))


def _fitted(model, X, problem):
    return model.fit(X[problem.train], problem.y[problem.train]), X


def _probe(problem, weights, **settings):
    rows = problem.train
    return probe(problem.y[rows], problem.groups[rows], class_weight=weights, **settings)


def _used(coefficients):
    """Count the columns with a weight that is not zero (against the largest)."""
    largest = np.abs(coefficients).max(axis=0)
    return int((largest > 1e-6 * max(largest.max(), 1e-300)).sum())


def _coefficients(fitted):
    last = getattr(fitted, "best_estimator_", fitted)
    return last[-1].coef_


def _shuffled(fitted, X, columns, n_rows=300):
    """Count the columns that change a probability when their values change places."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(X))[:n_rows]
    before, used = fitted.predict_proba(X[rows]), 0
    for column in columns:
        changed = X[rows].copy()
        changed[:, column] = rng.permutation(changed[:, column])
        used += int(np.abs(fitted.predict_proba(changed) - before).max() > 1e-6)
    return used


# ---- ours -------------------------------------------------------------------------------------


def _single(expert):
    def fit(problem, weights):
        model = ConceptBottleneckClassifier(prior=problem.prior, class_weight=weights)
        return _fit_ours(model, problem.X.select(expert), problem)

    return fit


def _mixture(gate):
    def fit(problem, weights):
        head = ConceptBottleneckClassifier(prior=problem.prior)
        model = GatedConceptBottleneckClassifier(head, gate, class_weight=weights, random_state=0)
        return _fit_ours(model, problem.X, problem)

    return fit


def _fit_ours(model, X, problem):
    rows = problem.train
    return model.fit(X[rows], problem.y[rows], groups=problem.groups[rows]), X


def _used_ours(fitted, problem):
    if not hasattr(fitted, "heads_"):
        return _used(fitted.association_)
    kept = [fitted.selected_] if fitted.selected_ in fitted.expert_names_ else fitted.expert_names_
    return sum(
        _used(head.association_)
        for name, head in zip(fitted.expert_names_, fitted.heads_, strict=True)
        if name in kept
    )


def _all_in_one(problem, weights):
    model = ConceptBottleneckClassifier(prior=None, class_weight=weights)
    return _fit_ours(model, problem.scores, problem)


# ---- scikit-learn -----------------------------------------------------------------------------


def _logistic(given):
    def fit(problem, weights):
        return _fitted(_probe(problem, weights), _input(problem, given), problem)

    return fit


def _input(problem, given):
    if given == "scores":
        return problem.scores
    if given == "embeddings":
        return problem.embeddings
    return np.hstack([problem.scores, problem.embeddings])


def _of_experts(problem, weights):
    """Return a logistic regression per expert on its columns, its C chosen on training folds."""
    members = []
    for name, columns in problem.columns.items():
        found = _fitted(_probe(problem, weights), problem.scores[:, columns], problem)[0]
        best = clone(getattr(found, "best_estimator_", found))
        members.append(
            (name, make_pipeline(ColumnTransformer([(name, "passthrough", columns)]), best))
        )
    return members


def _stacking(problem, weights):
    model = StackingClassifier(
        _of_experts(problem, weights),
        LogisticRegression(max_iter=2000, class_weight=weights),
        cv=_splits(problem),
        stack_method="decision_function",
    )
    return _fitted(model, problem.scores, problem)


def _voting(problem, weights):
    model = VotingClassifier(_of_experts(problem, weights), voting="soft")
    return _fitted(model, problem.scores, problem)


def _boosting(problem, weights):
    grid = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [5, 15]}
    model = HistGradientBoostingClassifier(
        max_iter=150, class_weight=weights, early_stopping=False, random_state=0
    )
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=_splits(problem)[:3])
    return _fitted(search, problem.scores, problem)


# ---- concept bottlenecks of others ------------------------------------------------------------


def _labo(problem, weights):
    return _fitted(LaBoHead(problem.incidence, class_weight=weights), problem.scores, problem)


SPARSE = {"solver": "saga", "l1_ratio": 0.99, "tol": 1e-3, "grid": (1e-3, 1e-2, 1e-1, 1.0)}


def _sparse(problem, weights):
    return _fitted(_probe(problem, weights, **SPARSE), problem.scores, problem)


class ConceptDirections(TransformerMixin, BaseEstimator):
    """Distances to the planes that part images with an attribute from those without."""

    def fit(self, X, attributes):
        """Learn from embeddings (n, d) and attributes (n, A) of 0, 1 and NaN."""
        planes = []
        for values in attributes.T:
            known = np.isfinite(values)
            plane = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
            plane.fit(X[known], values[known])
            length = np.linalg.norm(plane.coef_)
            planes.append(np.r_[plane.coef_[0], plane.intercept_] / length)
        self.planes_ = np.stack(planes)
        return self

    def transform(self, X):
        """Return signed distances (n, A)."""
        return X @ self.planes_[:, :-1].T + self.planes_[:, -1]


def _post_hoc(problem, weights):
    rows = problem.train
    if not problem.attributes.shape[1]:
        raise NotHere("no annotated concepts to learn directions from")
    X = StandardScaler().fit(problem.embeddings[rows]).transform(problem.embeddings)
    directions = ConceptDirections().fit(X[rows], problem.attributes[rows])
    return _fitted(_probe(problem, weights, **SPARSE), directions.transform(X), problem)


def _pyc(problem, weights):
    attributes = problem.attributes
    if not attributes.shape[1]:
        middle = np.median(problem.scores[problem.train], axis=0)
        attributes = (problem.scores > middle).astype(float)
    if find_spec("torch_concepts") is None:
        raise NotHere("torch_concepts is not installed")
    X = np.hstack([problem.embeddings, attributes])
    model = PyCBottleneck(attributes.shape[1], class_weight=weights)
    return _fitted(model, X, problem)


def _tabular(module, name):
    def fit(problem, weights):
        if weights is not None:
            raise NotHere("takes no class weights")
        try:
            model = getattr(import_module(module), name)()
            return _fitted(model, problem.scores, problem)
        except ImportError as error:
            raise NotHere(f"{error.name} is not installed") from error
        except Exception as error:  # each has errors of its own where weights are out of reach
            told = re.split(r"\.\s|\n", str(error).strip())[0].strip()
            raise NotHere(f"needs weights from the network ({told})") from error

    return fit


def _columns_used(fitted, problem):
    return _shuffled(fitted, problem.scores[problem.train], range(problem.scores.shape[1]))


def _linear_used(fitted, problem):
    return _used(_coefficients(fitted))


def _linear_used_of_scores(fitted, problem):
    return _used(_coefficients(fitted)[:, : problem.scores.shape[1]])


def peers(problem):
    """Return the list of `Peer` for a problem."""
    first, second = problem.X.expert_names
    scores, both = "concept scores", "concept scores and embeddings"
    taught = "embeddings; " + (
        "annotated concepts" if problem.attributes.shape[1] else "scores above their median"
    )
    return [
        Peer(f"ours: one bottleneck, {first}", scores, _single(first), "yes", _used_ours),
        Peer(f"ours: one bottleneck, {second}", scores, _single(second), "yes", _used_ours),
        Peer("ours: one bottleneck, all columns", scores, _all_in_one, "yes", _used_ours),
        Peer("ours: mixture, plain average", scores, _mixture("uniform"), "yes", _used_ours),
        Peer("ours: mixture, default", scores, _mixture("linear"), "yes", _used_ours),
        Peer("logistic regression", scores, _logistic("scores"), "yes", _linear_used),
        Peer("logistic regression", "embeddings", _logistic("embeddings"), "no"),
        Peer(
            "logistic regression",
            both,
            _logistic("both"),
            "no: in part of embeddings",
            _linear_used_of_scores,
        ),
        Peer("StackingClassifier over the experts", scores, _stacking, "yes", _columns_used),
        Peer(
            "VotingClassifier over the experts",
            scores,
            _voting,
            "no: per expert only",
            _columns_used,
        ),
        Peer("HistGradientBoosting", scores, _boosting, "no", _columns_used),
        Peer("LaBo's head", scores, _labo, "yes", lambda f, p: _used(f.association_)),
        Peer("label-free style sparse head", scores, _sparse, "yes", _linear_used),
        Peer("post-hoc CBM", "embeddings; annotated concepts", _post_hoc, "yes", _linear_used),
        Peer(
            "pytorch-concepts, bottleneck",
            taught,
            _pyc,
            "yes",
            lambda f, p: f.n_concepts,
        ),
        Peer("TabPFN", scores, _tabular("tabpfn", "TabPFNClassifier"), "no", _columns_used),
        Peer("TabICL", scores, _tabular("tabicl", "TabICLClassifier"), "no", _columns_used),
    ]
