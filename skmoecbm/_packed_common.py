"""What is packed of every classifier alike: parameters, labels, sets of classes, training."""

import numpy as np

from skmoecbm._foreign_templates import ForeignTemplate
from skmoecbm._gates import (
    ConstantGate,
    GaussianGate,
    LaplaceGate,
    LinearGate,
    MLPGate,
    UniformGate,
)
from skmoecbm._joint import JointTraining
from skmoecbm._nonconformity import SetCalibration
from skmoecbm._packed_arrays import take
from skmoecbm._parameters import pack_parameters, unpack_parameters
from skmoecbm._prevalence import prevalence_shift
from skmoecbm._schema_bases import Labels, SetsNode
from skmoecbm.classifier import ConceptBottleneckClassifier
from skmoecbm.concepts import LintedConcepts, SubmodularSelector, TopKConcepts
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.moe import Balancing, MiniBatches

__all__ = ["OBJECTS", "build", "checked", "pack_common", "unpack_common"]

# What may stand as a parameter; a name in a file is looked up here and never imported.
OBJECTS = {
    cls.__name__: cls
    for cls in (
        Balancing,
        ConceptBottleneckClassifier,
        ConstantGate,
        ForeignTemplate,
        GaussianGate,
        JointTraining,
        LaplaceGate,
        LinearGate,
        LintedConcepts,
        MLPGate,
        MiniBatches,
        SubmodularSelector,
        TopKConcepts,
        UniformGate,
    )
}

# Arrays of one number a class that a model need not have: files older than they are lack them.
_OPTIONAL = ("class_prevalence", "thresholds")
_SETS = ("scores", "weights", "codes", "shift")


def build(cls, node, **parts):
    """Return an estimator with the parameters of its node."""
    try:
        model = cls(**unpack_parameters(cls, node.parameters, OBJECTS), **parts)
    except TypeError as error:
        raise FormatError(
            f"config.json does not have the parameters of {cls.__name__}: {error}."
        ) from None
    if node.not_saved:
        model._not_saved = node.not_saved  # until a new fit: what is there is not what was fitted
    return model


def checked(check):
    """Return what an estimator's own check of its parameters says of those of a file."""
    try:
        return check()
    except InputError as error:
        raise FormatError(f"config.json has a bad parameter. {error}") from None


def pack_common(model, arrays, prefix, experts=None):
    """Return the fields that every classifier's node has."""
    for name in _OPTIONAL:
        if hasattr(model, f"{name}_"):
            arrays[f"{prefix}.{name}"] = getattr(model, f"{name}_")
    parameters, left_out = pack_parameters(model, OBJECTS, instead={"experts": experts})
    names = getattr(model, "feature_names_in_", None)
    return {
        "parameters": parameters,
        "not_saved": left_out,
        "classes": Labels.of(model.classes_),
        "multilabel": model.multilabel_,
        "n_features_in": int(model.n_features_in_),
        "feature_names_in": None if names is None else names.tolist(),
        "n_iter": int(model.n_iter_),
        "sets": _pack_sets(model, arrays, f"{prefix}.sets"),
        "edits": getattr(model, "edit_log_", ()),
        "training_summary": getattr(model, "training_summary_", None),
    }


def unpack_common(model, node, arrays, prefix):
    """Give a model what every classifier's node has."""
    model.classes_, model.multilabel_ = node.classes.array(), node.multilabel
    for name in _OPTIONAL:
        if f"{prefix}.{name}" in arrays:
            array = take(arrays, f"{prefix}.{name}", (len(node.classes.values),), "float64")
            if (array < 0).any() or (array > 1).any():
                raise FormatError(f"{prefix}.{name} must lie in [0, 1]; save the model again.")
            setattr(model, f"{name}_", array)
    if node.sets is not None:
        model.set_calibration_ = _unpack_sets(node, arrays, f"{prefix}.sets")
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = checked(lambda: prevalence_shift(model, model.target_prevalence))
    if not np.isfinite(shift).all():
        raise FormatError(f"{prefix} has a target_prevalence that no class frequencies allow.")
    model.n_features_in_, model.n_iter_ = node.n_features_in, node.n_iter
    if node.edits:
        model.edit_log_ = [edit.model_dump() for edit in node.edits]
    if node.training_summary is not None:
        model.training_summary_ = node.training_summary.model_dump(mode="json")
    if node.feature_names_in is not None:
        if len(node.feature_names_in) != node.n_features_in:
            raise FormatError("feature_names_in and n_features_in differ; save the model again.")
        if len(set(node.feature_names_in)) < node.n_features_in:
            raise FormatError("feature_names_in has a name twice; save the model again.")
        model.feature_names_in_ = np.array(node.feature_names_in, dtype=object)


def _pack_sets(model, arrays, prefix):
    """Return the `SetsNode` of a model that `calibrate_sets` returned, else None."""
    calibration = getattr(model, "set_calibration_", None)
    if calibration is None:
        return None
    names = _SETS if calibration.class_conditional else [n for n in _SETS if n != "codes"]
    for name in names:
        arrays[f"{prefix}.{name}"] = getattr(calibration, name)
    return SetsNode(
        method=calibration.method,
        class_conditional=calibration.class_conditional,
        n_rows=len(calibration.scores),
    )


def _unpack_sets(node, arrays, prefix):
    n, n_classes = node.sets.n_rows, len(node.classes.values)
    scores = take(arrays, f"{prefix}.scores", (n,), "float64")
    weights = take(arrays, f"{prefix}.weights", (n,), "float64")
    shift = take(arrays, f"{prefix}.shift", (n_classes,), "float64")
    codes = np.zeros(n, dtype=np.int64)
    if node.sets.class_conditional:
        codes = take(arrays, f"{prefix}.codes", (n,), "int64")
    good = ((scores >= 0) & (scores <= 1) & (weights > 0) & (weights <= 1)).all()
    good = good and (np.lexsort((scores, codes)) == np.arange(n)).all()
    if not good or (codes < 0).any() or (codes >= n_classes).any():
        raise FormatError(
            f"{prefix} must have scores in [0, 1], ascending, weights in (0, 1] and codes of "
            "classes; save the model again."
        )
    return SetCalibration(
        node.sets.method, node.sets.class_conditional, scores, weights, codes, shift
    )
