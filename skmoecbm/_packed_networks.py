"""The classifiers of networks as JSON nodes with arrays beside them, and back."""

from dataclasses import asdict

import numpy as np

from skmoecbm._columns import Layout
from skmoecbm._packed_arrays import take, take_quantiles
from skmoecbm._packed_common import build, checked, pack_common, unpack_common
from skmoecbm._schema_networks import CrossNode, CrossShapeNode, SeriesNode, SparseNode
from skmoecbm.exceptions import FormatError
from skmoecbm.moe import CrossModalMoEClassifier, MultiTimeAttention, SparseMoEClassifier
from skmoecbm.moe._cross_network import CrossShape, cross_tensor_shapes
from skmoecbm.moe._cross_streams import StreamLayout
from skmoecbm.moe._network import Shape, tensor_shapes

__all__ = ["pack_cross", "pack_sparse", "unpack_cross", "unpack_sparse"]

# Logarithms of factors: beyond, products with them would leave float64.
_LARGEST_LOG = 100.0
_FIELDS = ("n_experts", "top_k", "hidden", "router", "gating", "noisy", "learned_missing")


def pack_sparse(model, arrays, prefix, trusted=()):
    """Return the `SparseNode` of a fitted `SparseMoEClassifier`."""
    for name, array in model.weights_.items():
        arrays[f"{prefix}.network.{name}"] = array
    for m, name in enumerate(model.modality_names_):
        own = f"{prefix}.modalities.{m}"
        one = model.time_series_.get(name)
        arrays[f"{own}.mean"] = one.means_ if one else model.modality_means_[m]
        arrays[f"{own}.scale"] = one.scales_ if one else model.modality_scales_[m]
        arrays[f"{own}.concept_quantiles"] = model.concept_quantiles_[m]
    arrays[f"{prefix}.class_log_prior"] = model.class_log_prior_
    shape = asdict(model.network_shape_)
    return SparseNode(
        **pack_common(model, arrays, prefix),
        modality_names=model.modality_names_,
        modality_columns=[columns.tolist() for columns in model._layout.columns],
        column_names=model._layout.concepts,
        masked_modalities=model._masked,
        shape={name: shape[name] for name in _FIELDS} | {"series": _pack_series(model)},
        history=_pack_history(model.history_),
    )


def unpack_sparse(node, arrays, prefix, trusted=()):
    """Return the fitted classifier of a `SparseNode`."""
    model = build(SparseMoEClassifier, node)
    checked(model._check_settings)
    n_classes, widths = len(node.classes.values), [len(part) for part in node.modality_columns]
    model.class_log_prior_ = take(arrays, f"{prefix}.class_log_prior", (n_classes,), "float64")
    unpack_common(model, node, arrays, prefix)
    model.modality_means_, model.modality_scales_, model.concept_quantiles_ = [], [], []
    model.time_series_ = {}
    series = node.shape.series or (None,) * len(widths)
    for m, (width, one) in enumerate(zip(widths, series, strict=True)):
        own = f"{prefix}.modalities.{m}"
        if f"{own}.concept_quantiles" not in arrays:
            raise FormatError(f"The array '{own}.concept_quantiles' is missing; save it again.")
        model.concept_quantiles_.append(take_quantiles(arrays, own, width))
        scaled = (width if one is None else one.n_variables,)
        mean = take(arrays, f"{own}.mean", scaled, "float64")
        scale = take(arrays, f"{own}.scale", scaled, "float64", positive=True)
        if one is not None:
            model.time_series_[node.modality_names[m]] = _unpack_series(one, mean, scale)
            mean = scale = np.empty(0)
        model.modality_means_.append(mean)
        model.modality_scales_.append(scale)
    shape = node.shape.model_dump(exclude={"series"})
    model.network_shape_ = Shape(
        widths=tuple(node.widths),
        n_outputs=1 if n_classes == 2 and not node.multilabel else n_classes,
        series=tuple(
            one and (one.n_variables, one.n_points, one.n_frequencies, one.sharpness)
            for one in series
        ),
        **shape,
    )
    shapes = tensor_shapes(model.network_shape_)
    _take_network(model, node, arrays, prefix, shapes)
    model.modality_names_ = list(node.modality_names)
    if node.masked_modalities:
        model.masked_modalities_ = node.masked_modalities
    model._layout = Layout(
        model.modality_names_,
        [np.array(columns, dtype=int) for columns in node.modality_columns],
        [list(names) for names in node.column_names],
        np.array([], dtype=int),
    )
    return model


def pack_cross(model, arrays, prefix, trusted=()):
    """Return the `CrossNode` of a fitted `CrossModalMoEClassifier`."""
    for name, array in model.weights_.items():
        arrays[f"{prefix}.network.{name}"] = array
    for m in range(len(model.streams_)):
        arrays[f"{prefix}.streams.{m}.mean"] = model.token_means_[m]
        arrays[f"{prefix}.streams.{m}.scale"] = model.token_scales_[m]
    arrays[f"{prefix}.class_log_prior"] = model.class_log_prior_
    shape, layout = asdict(model.network_shape_), model._layout
    columns = layout.columns
    return CrossNode(
        **pack_common(model, arrays, prefix),
        stream_names=list(model.streams_),
        stream_widths=list(model.streams_.values()),
        stream_columns=None if columns is None else [own.tolist() for own in columns],
        reading=layout.kind,
        picked=layout.picked,
        masked_streams=model._masked,
        shape={name: shape[name] for name in CrossShapeNode.model_fields},
        history=_pack_history(model.history_),
    )


def unpack_cross(node, arrays, prefix, trusted=()):
    """Return the fitted classifier of a `CrossNode`."""
    model = build(CrossModalMoEClassifier, node)
    checked(model._check_settings)
    n_classes = len(node.classes.values)
    model.class_log_prior_ = take(arrays, f"{prefix}.class_log_prior", (n_classes,), "float64")
    unpack_common(model, node, arrays, prefix)
    model.streams_ = dict(zip(node.stream_names, node.stream_widths, strict=True))
    model.modality_names_ = list(node.stream_names)
    if node.masked_streams:
        model.masked_streams_ = node.masked_streams
    columns = node.stream_columns
    if columns is not None:
        columns = [np.array(own, dtype=int) for own in columns]
    model._layout = StreamLayout(node.reading, columns, node.picked)
    model.token_means_, model.token_scales_ = [], []
    for m, width in enumerate(node.stream_widths):
        own = f"{prefix}.streams.{m}"
        model.token_means_.append(take(arrays, f"{own}.mean", (width,), "float64"))
        scale = take(arrays, f"{own}.scale", (width,), "float64", positive=True)
        model.token_scales_.append(scale)
    model.network_shape_ = CrossShape(
        widths=tuple(node.stream_widths),
        n_outputs=1 if n_classes == 2 and not node.multilabel else n_classes,
        **node.shape.model_dump(),
    )
    shapes = cross_tensor_shapes(model.network_shape_)
    _take_network(model, node, arrays, prefix, shapes)
    return model


def _pack_history(history):
    """Return what a training run tells as plain values."""
    return {
        "train_loss": [float(loss) for loss in history["train_loss"]],
        "validation_score": [float(score) for score in history["validation_score"]],
        "best_epoch": int(history["best_epoch"]),
        "early_stopping": history["early_stopping"],
    }


def _take_network(model, node, arrays, prefix, shapes):
    """Give a model the tensors of its network, and how the training went."""
    model.weights_ = {}
    for name, shape in shapes.items():
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


def _pack_series(model):
    """Return by modality how it is read, or nothing where no one is a time series."""
    found = []
    for name, one in zip(model.modality_names_, model.network_shape_.series, strict=True):
        if one is None:
            found.append(None)
            continue
        first, last = model.time_series_[name].span_
        keys = ("n_variables", "n_points", "n_frequencies", "sharpness")
        found.append(SeriesNode(**dict(zip(keys, one, strict=True)), first=first, last=last))
    return tuple(found) if any(found) else ()


def _unpack_series(node, means, scales):
    """Return the fitted transformer of a `SeriesNode`."""
    one = MultiTimeAttention(
        node.n_points,
        n_frequencies=node.n_frequencies,
        sharpness=node.sharpness,
        time_range=(node.first, node.last),
        n_variables=node.n_variables,
    )
    one.n_variables_, one.span_ = node.n_variables, (node.first, node.last)
    one.points_ = np.linspace(node.first, node.last, node.n_points)
    one.means_, one.scales_ = means, scales
    return one
