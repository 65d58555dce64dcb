"""Which types an estimator of another library may be made of, by name and without any import."""

import functools

import numpy as np

__all__ = ["NEIGHBOUR_TREES", "VOUCHED", "default_types", "hint"]

# Parts of scikit-learn's estimators that newer versions of skops trust; no estimators themselves.
_PARTS = {
    "sklearn._loss.link.HalfLogitLink",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.ExponentialLoss",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
}
_LOSSES = {
    "sklearn._loss._loss.CyExponentialLoss",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn.linear_model._sgd_fast.EpsilonInsensitive",
    "sklearn.linear_model._sgd_fast.Hinge",
    "sklearn.linear_model._sgd_fast.ModifiedHuber",
    "sklearn.linear_model._sgd_fast.SquaredEpsilonInsensitive",
    "sklearn.linear_model._sgd_fast.SquaredHinge",
}
# Beyond what skops trusts: plain Python of scikit-learn, without which calibrated, stacked and
# neural classifiers could not be saved; and trees, whose numbers `_skops_numbers` looks through.
VOUCHED = frozenset(
    _PARTS
    | _LOSSES
    | {
        "numpy.dtype",
        "numpy.mean",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.Exponentiation",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)
_FUNCTIONS = {name for name in VOUCHED if name.rpartition(".")[2].islower()} - {"numpy.dtype"}
# Compiled code of theirs trusts its numbers, and nothing here looks through them.
_UNCHECKED = {
    "sklearn.ensemble._gb.GradientBoostingRegressor",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
    "sklearn.svm._classes.NuSVR",
    "sklearn.svm._classes.OneClassSVM",
    "sklearn.svm._classes.SVR",
}


@functools.cache
def default_types():
    """Return loader of skops -> names of the types that it may make, user or no user.

    What is not a key is refused, whatever it makes: methods, partials, operators and calls of
    constructors run code of their own; sparse matrices and cached nodes hold numbers or
    references that nothing checks.
    """
    from sklearn.utils.discovery import all_estimators

    estimators = {f"{cls.__module__}.{cls.__qualname__}" for _, cls in all_estimators()}
    dtypes = {f"numpy.{cls.__name__}" for cls in np.sctypeDict.values()}
    dtypes -= {"numpy.object_", "numpy.void"}
    primitives = {f"builtins.{name}" for name in ("bool", "float", "int", "str")}
    ufuncs = {name for name in dir(np) if isinstance(getattr(np, name), np.ufunc)}
    objects = {name for name in (*estimators, *VOUCHED) if name.startswith("sklearn.")}
    objects -= {
        *_FUNCTIONS,
        *_LOSSES,
        *_UNCHECKED,
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
    return {
        "BytearrayNode": {"builtins.bytearray"},
        "BytesNode": {"builtins.bytes"},
        "DTypeNode": {"numpy.dtype"},
        "DictNode": {"builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch"},
        "FunctionNode": {f"numpy.{name}" for name in ufuncs} | _FUNCTIONS,
        "JsonNode": {"builtins.str"},
        "ListNode": {"builtins.list"},
        "LossNode": _LOSSES,
        "MaskedArrayNode": {"numpy.ma.MaskedArray", "numpy.ma.core.MaskedArray"},
        "NdArrayNode": {"numpy.ndarray"} | dtypes,
        "ObjectNode": objects,
        "RandomGeneratorNode": {"numpy.random._generator.Generator"},
        "RandomStateNode": {"numpy.random.mtrand.RandomState"},
        "SetNode": {"builtins.set"},
        "SliceNode": {"builtins.slice"},
        "TreeNode": {"sklearn.tree._tree.Tree"},
        "TupleNode": {"builtins.tuple"},
        "TypeNode": primitives | dtypes | {"builtins.list", "builtins.set", "builtins.tuple"},
    }


#: where the types are that neighbours by trees are made of
NEIGHBOUR_TREES = ("sklearn.metrics._dist_metrics.", "sklearn.neighbors.")


def hint(name):
    """Return what to do instead about a type that has no safe form, or nothing."""
    module, _, own = name.rpartition(".")
    if own == "<lambda>" or "<locals>" in name or module == "__main__":
        return "a function or class of a script or notebook cannot be found again: put it in a file"
    if name.startswith(NEIGHBOUR_TREES):
        return "use algorithm='brute'"
    if name.startswith("scipy.sparse."):
        return "sparse arrays are not kept: make it dense"
    return ""
