"""What the parts of an estimator that was loaded must agree on, before it is asked anything.

Compiled code of scikit-learn takes sizes from one attribute and walks through another. Types say
nothing of that; here it is compared. What is plain numpy makes its own errors.
"""

import inspect

import numpy as np

from skmoecbm._parameters import MAX_JOBS
from skmoecbm.exceptions import FormatError

__all__ = ["check_numbers", "rows_within"]

_JOBS = ("n_jobs", "_n_threads")
_MAX_COLUMNS = 1_000_000  # of a row that is made to ask
# where neighbours, support vector machines, Gaussian and kernel methods keep what they have seen
_ROWS = ("_fit_X", "support_vectors_", "X_train_", "X_fit_", "X_")


def check_numbers(estimator):
    """Raise `FormatError` where attributes contradict each other or stand in place of methods.

    Neither may they name a folder for a cache, whose pickles the next `fit` would read, nor ask for
    any number of threads.
    """
    for part in _parts(estimator):
        own = type(part)
        if vars(part).get("memory") is not None:
            raise FormatError(f"a {own.__name__} names a folder for a cache, which it may not.")
        for name in _JOBS:
            n = vars(part).get(name)
            if n is not None and not (type(n) is int and 1 <= abs(n) <= MAX_JOBS):
                raise FormatError(
                    f"a {own.__name__} asks for {name}={n!r:.40}; it may ask for at most "
                    f"{MAX_JOBS} threads."
                )
        for name in vars(part):
            # Such an attribute would be called in place of the method that checks the rows.
            if hasattr(inspect.getattr_static(own, name, None), "__get__"):
                raise FormatError(f"a {own.__name__} has {name!r:.80} in place of its own.")
        for kind, check in _checks():
            if isinstance(part, kind):
                try:
                    good = bool(check(part))
                # an attribute that is missing, or of another kind than arithmetic takes; a
                # setting that scikit-learn's own code has no branch for is a NameError there
                except (
                    ArithmeticError,
                    AttributeError,
                    LookupError,
                    NameError,
                    TypeError,
                    ValueError,
                ):
                    good = False
                if not good:
                    raise FormatError(f"a {own.__name__} has numbers that contradict each other.")


def rows_within(estimator):
    """Return which attributes are rows of the training: "SVC.support_vectors_"."""
    return [
        f"{type(part).__name__}.{name}"
        for part in _parts(estimator)
        for name in _ROWS
        if np.ndim(vars(part).get(name)) == 2
    ]


def _parts(estimator):
    """Return the objects with attributes that an estimator is made of, itself included."""
    found, seen, ahead = [], {}, [estimator]
    while ahead:
        part = ahead.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | None):
            continue
        seen[id(part)] = part
        if isinstance(part, dict):
            ahead.extend(part.values())
        elif isinstance(part, list | tuple | set):
            ahead.extend(part)
        elif isinstance(part, np.ndarray):
            ahead.extend(part.ravel().tolist() if part.dtype == object else ())
        elif type(part).__module__.startswith("sklearn.") and hasattr(part, "__dict__"):
            found.append(part)
            ahead.extend(vars(part).values())
    return found


def _checks():
    from sklearn.base import ClusterMixin
    from sklearn.ensemble import BaseEnsemble, HistGradientBoostingClassifier
    from sklearn.ensemble import GradientBoostingClassifier as Boosting
    from sklearn.feature_extraction import DictVectorizer, FeatureHasher
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
    from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
    from sklearn.preprocessing import OneHotEncoder
    from sklearn.svm import SVC, NuSVC
    from sklearn.tree import BaseDecisionTree

    return (
        (BaseDecisionTree, _tree),
        (BaseEnsemble, _ensemble),
        (Boosting, _boosting),
        (HistGradientBoostingClassifier, _hist_boosting),
        (SVC | NuSVC, _machine),
        (object, _rows_kept),
        (KNeighborsClassifier | RadiusNeighborsClassifier, _neighbours),
        (CountVectorizer | DictVectorizer, _vocabulary),
        (FeatureHasher | HashingVectorizer, _hasher),
        (OneHotEncoder, _one_hot),
        (ClusterMixin, _clusters),
    )


def _tree(part):
    if not hasattr(part, "tree_"):
        return True
    tree = part.tree_
    return tree.n_features == part.n_features_in_ and tree.n_outputs == part.n_outputs_


def _ensemble(part):
    from sklearn.ensemble import BaggingClassifier, BaggingRegressor, IsolationForest
    from sklearn.tree import BaseDecisionTree

    # each tree is asked about columns of its own, and looks itself whether they are enough
    if isinstance(part, BaggingClassifier | BaggingRegressor | IsolationForest):
        return True
    trees = [tree for tree in _flat(part) if isinstance(tree, BaseDecisionTree)]
    return all(tree.n_features_in_ == part.n_features_in_ for tree in trees)


def _flat(part):
    trees = getattr(part, "estimators_", [])
    return trees.ravel().tolist() if isinstance(trees, np.ndarray) else trees


def _boosting(part):
    from sklearn.tree import DecisionTreeRegressor

    if not hasattr(part, "estimators_"):
        return True
    n_outputs = 1 if len(part.classes_) == 2 else len(part.classes_)
    trees = part.estimators_
    good = trees.ndim == 2 and trees.shape[1] == n_outputs == part.n_trees_per_iteration_
    good = good and all(
        type(t) is DecisionTreeRegressor and t.tree_.value.shape[1:] == (1, 1)
        for t in trees.ravel()
    )
    good = good and type(part.n_features_in_) is int and part.n_features_in_ <= _MAX_COLUMNS
    # The trees add to these in place, whatever columns `init_` and `_loss` have made.
    return good and part._raw_predict_init(np.zeros((1, part.n_features_in_))).shape == (
        1,
        n_outputs,
    )


def _hist_boosting(part):
    if not hasattr(part, "_predictors"):
        return True
    trees = [tree for stage in part._predictors for tree in stage]
    categorical = part._bin_mapper.is_categorical_
    # What comes before the trees could give them fewer columns than they ask for.
    good = part._preprocessor is None
    good = good and categorical.shape == (part.n_features_in_,)
    good = good and categorical.dtype in (bool, np.uint8)
    for tree in trees:
        nodes = tree.nodes[tree.nodes["is_leaf"] == 0]
        good = good and (nodes["feature_idx"] < part.n_features_in_).all()
        split = nodes[nodes["is_categorical"] != 0]
        good = good and (categorical[split["feature_idx"]] != 0).all()
    return good


def _machine(part):
    if not hasattr(part, "support_vectors_"):
        return True
    n_classes, (n, m) = len(part.classes_), part.support_vectors_.shape
    n_pairs = n_classes * (n_classes - 1) // 2
    good = "_impl" not in vars(part) and not part._sparse and n_classes >= 2
    good = good and part.kernel in ("linear", "poly", "rbf", "sigmoid")
    good = good and m == part.n_features_in_ and part.support_.shape == (n,)
    good = good and part._n_support.shape == (n_classes,) and part._n_support.sum() == n
    good = good and (part._n_support >= 0).all() and part._n_support.dtype == np.int32
    good = good and part._dual_coef_.shape == (n_classes - 1, n)
    good = good and part._intercept_.shape == (n_pairs,)
    for name in ("_probA", "_probB"):
        good = good and getattr(part, name).shape in ((0,), (n_pairs,))
    return good and part._probA.shape == part._probB.shape


def _rows_kept(part):
    """Check the rows of an estimator that looks for the nearest: as wide as those it is asked."""
    rows = vars(part).get("_fit_X")
    return rows is None or (rows.ndim == 2 and rows.shape[1] == part.n_features_in_)


def _neighbours(part):
    if not hasattr(part, "_fit_X"):
        return True
    n, m = part._fit_X.shape
    labels = part._y if part._y.ndim == 2 else part._y[:, None]
    classes = part.classes_ if isinstance(part.classes_, list) else [part.classes_]
    good = m == part.n_features_in_ and n == part.n_samples_fit_ == len(labels)
    good = good and part._tree is None and labels.shape[1] == len(classes)
    good = good and labels.dtype.kind in "iu" and (labels >= 0).all()
    return good and all(
        (column < len(own)).all() for column, own in zip(labels.T, classes, strict=True)
    )


def _vocabulary(part):
    columns = list(getattr(part, "vocabulary_", {}).values())
    return all(type(c) is int or isinstance(c, np.integer) for c in columns) and (
        sorted(columns) == list(range(len(columns)))
    )


def _hasher(part):
    return type(part.n_features) is int and 1 <= part.n_features < 2**31  # it is divided by


def _one_hot(part):
    if not hasattr(part, "categories_"):
        return True
    widths = part._n_features_outs
    good = len(widths) == len(part.categories_) == part.n_features_in_
    good = good and list(widths) == part._compute_n_features_outs()
    if not good or not part._infrequent_enabled:
        return good
    dropped = part._drop_idx_after_grouping
    dropped = [None] * len(widths) if dropped is None else dropped
    mappings = part._default_to_infrequent_mappings
    return all(
        mapping is None or 0 <= mapping.min() <= mapping.max() < width + (one is not None)
        for width, mapping, one in zip(widths, mappings, dropped, strict=True)
    )


def _clusters(part):
    if not hasattr(part, "cluster_centers_"):
        return True
    return part.cluster_centers_.ndim == 2 and (
        part.cluster_centers_.shape[1] == part.n_features_in_
    )
