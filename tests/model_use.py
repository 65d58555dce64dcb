"""What becomes of a folder: refused, or a model that can be used; anything else is a finding."""

import warnings

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skmoecbm import FormatError, SkmoecbmError, SkmoecbmWarning, load
from skmoecbm.moe import TokenFeatures

__all__ = ["outcome_of", "use"]

_MAX_COLUMNS = 10_000


def outcome_of(folder):
    """Load a folder and use the model; return what came of it, or let the error through.

    Returns
    -------
    {"refused", "loaded", "loaded, then refused"}
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of numpy's is a number that went wrong
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SkmoecbmWarning)  # of another version of scikit-learn
        try:
            model = load(folder)
        except FormatError as error:
            assert len(str(error)) < 3000, "an error must not carry the file"
            return "refused"
        return use(model)


def use(model):
    """Do with a model what needs no backbone; return "loaded" or "loaded, then refused"."""
    repr(model), model.get_params(), clone(model), str(vars(model))[:100]
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if not hasattr(last, "predict_proba") or last.n_features_in_ > _MAX_COLUMNS:
        return "loaded"
    X = np.random.default_rng(0).normal(size=(4, last.n_features_in_))
    for name in getattr(last, "time_series_", ()):  # of which some columns are 0 or 1
        columns = last._layout.columns[last.modality_names_.index(name)]
        X[:, columns] = X[:, columns] > 0
    if getattr(getattr(last, "_layout", None), "kind", None) == "tokens":
        rng = np.random.default_rng(0)
        X = TokenFeatures({n: rng.normal(size=(4, 3, width)) for n, width in last.streams_.items()})
    if hasattr(last, "feature_names_in_"):
        X = pd.DataFrame(X, columns=last.feature_names_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkmoecbmWarning)
        try:
            proba = last.predict_proba(X)
            labels = last.predict(X)
        except SkmoecbmError:
            return "loaded, then refused"
    assert proba.shape == (4, len(last.classes_))
    assert np.isfinite(proba).all() and (proba >= 0).all() and (proba <= 1 + 1e-12).all()
    assert last.multilabel_ or np.allclose(proba.sum(1), 1)
    assert len(labels) == 4
    return "loaded"
