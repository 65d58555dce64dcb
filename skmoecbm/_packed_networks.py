"""The classifiers of networks as JSON nodes with arrays beside them, and back."""

from dataclasses import asdict

import numpy as np

from skmoecbm._columns import Layout
from skmoecbm._packed_arrays import take, take_quantiles
from skmoecbm._packed_common import build, checked, pack_common, unpack_common
from skmoecbm._schema_networks import SparseNode
from skmoecbm.exceptions import FormatError
from skmoecbm.moe import SparseMoEClassifier
from skmoecbm.moe._network import Shape, tensor_shapes

__all__ = ["pack_sparse", "unpack_sparse"]

# Logarithms of factors: beyond, products with them would leave float64.
_LARGEST_LOG = 100.0
_FIELDS = ("n_experts", "top_k", "hidden", "router", "gating", "noisy", "learned_missing")


def pack_sparse(model, arrays, prefix, trusted=()):
    """Return the `SparseNode` of a fitted `SparseMoEClassifier`."""
    for name, array in model.weights_.items():
        arrays[f"{prefix}.network.{name}"] = array
    for m in range(len(model.modality_names_)):
        own = f"{prefix}.modalities.{m}"
        arrays[f"{own}.mean"] = model.modality_means_[m]
        arrays[f"{own}.scale"] = model.modality_scales_[m]
        arrays[f"{own}.concept_quantiles"] = model.concept_quantiles_[m]
    arrays[f"{prefix}.class_log_prior"] = model.class_log_prior_
    shape, history = asdict(model.network_shape_), model.history_
    return SparseNode(
        **pack_common(model, arrays, prefix),
        modality_names=model.modality_names_,
        modality_columns=[columns.tolist() for columns in model._layout.columns],
        column_names=model._layout.concepts,
        shape={name: shape[name] for name in _FIELDS},
        history={
            "train_loss": [float(loss) for loss in history["train_loss"]],
            "validation_score": [float(score) for score in history["validation_score"]],
            "best_epoch": int(history["best_epoch"]),
            "early_stopping": history["early_stopping"],
        },
    )


def unpack_sparse(node, arrays, prefix, trusted=()):
    """Return the fitted classifier of a `SparseNode`."""
    model = build(SparseMoEClassifier, node)
    checked(model._check_settings)
    n_classes, widths = len(node.classes.values), [len(part) for part in node.modality_columns]
    model.class_log_prior_ = take(arrays, f"{prefix}.class_log_prior", (n_classes,), "float64")
    unpack_common(model, node, arrays, prefix)
    model.modality_means_, model.modality_scales_, model.concept_quantiles_ = [], [], []
    for m, width in enumerate(widths):
        own = f"{prefix}.modalities.{m}"
        model.modality_means_.append(take(arrays, f"{own}.mean", (width,), "float64"))
        scale = take(arrays, f"{own}.scale", (width,), "float64", positive=True)
        model.modality_scales_.append(scale)
        if f"{own}.concept_quantiles" not in arrays:
            raise FormatError(f"The array '{own}.concept_quantiles' is missing; save it again.")
        model.concept_quantiles_.append(take_quantiles(arrays, own, width))
    model.network_shape_ = Shape(
        widths=tuple(widths),
        n_outputs=1 if n_classes == 2 and not node.multilabel else n_classes,
        **node.shape.model_dump(),
    )
    model.weights_ = {}
    for name, shape in tensor_shapes(model.network_shape_).items():
        array = take(arrays, f"{prefix}.network.{name}", shape, "float64")
        if "log_" in name and np.abs(array).max(initial=0.0) > _LARGEST_LOG:
            raise FormatError(
                f"The array '{prefix}.network.{name}' has logarithms beyond {_LARGEST_LOG:g}; "
                "save the model again."
            )
        model.weights_[name] = array
    model.history_ = {
        "train_loss": list(node.history.train_loss),
        "validation_score": list(node.history.validation_score),
        "best_epoch": node.history.best_epoch,
        "early_stopping": node.history.early_stopping,
    }
    model.modality_names_ = list(node.modality_names)
    model._layout = Layout(
        model.modality_names_,
        [np.array(columns, dtype=int) for columns in node.modality_columns],
        [list(names) for names in node.column_names],
        np.array([], dtype=int),
    )
    return model
