"""The classifiers as JSON nodes with arrays beside them, and back."""

import numpy as np

from skmoecbm._columns import Layout
from skmoecbm._foreign import ForeignHead
from skmoecbm._foreign_steps import pack_foreign_head, unpack_foreign_head
from skmoecbm._foreign_templates import pack_templates, unpack_templates
from skmoecbm._gate_inputs import input_shapes
from skmoecbm._gating import GateState
from skmoecbm._packed_arrays import take, take_quantiles
from skmoecbm._packed_common import build, checked, pack_common, unpack_common
from skmoecbm._schema_nodes import GatedNode, HeadNode
from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from skmoecbm.exceptions import FormatError

__all__ = ["pack_gated", "pack_head", "unpack_gated", "unpack_head"]

_POSITIVE = ("scale", "gate_scale", "inverse_temperature", "expert_scale", "pool_scale")


def pack_head(model, arrays, prefix, trusted=()):
    """Return the `HeadNode` of a fitted classifier of one expert."""
    for name in _head_shapes(1, 1, False):
        arrays[f"{prefix}.{name}"] = getattr(model, f"{name}_")
    if hasattr(model, "concept_quantiles_"):  # not of models that older versions fitted
        arrays[f"{prefix}.concept_quantiles"] = model.concept_quantiles_
    return HeadNode(
        **pack_common(model, arrays, prefix),
        **_pack_alpha(model),
        concept_names=model.concept_names_,
        expert_name=model.expert_name_,
        prior_used=model.prior_used_,
    )


def unpack_head(node, arrays, prefix, trusted=()):
    """Return the fitted classifier of a `HeadNode`."""
    model = build(ConceptBottleneckClassifier, node)
    checked(model._check_parameters)
    m, n_classes = len(node.concept_names), len(node.classes.values)
    for name, shape in _head_shapes(m, n_classes, node.multilabel).items():
        stored = getattr(arrays.get(f"{prefix}.{name}"), "dtype", None)
        # Associations of very many coefficients are float32.
        kind = "float32" if "association" in name and stored == np.float32 else "float64"
        array = take(arrays, f"{prefix}.{name}", shape, kind, positive=name in _POSITIVE)
        setattr(model, f"{name}_", array)
    if node.n_features_in != m:
        raise FormatError(f"{prefix}: the head does not fit its {m} concepts; save it again.")
    unpack_common(model, node, arrays, prefix)
    _unpack_alpha(model, node)
    model.concept_names_ = list(node.concept_names)
    model.expert_name_ = node.expert_name
    model.prior_used_ = node.prior_used
    if f"{prefix}.concept_quantiles" in arrays:
        model.concept_quantiles_ = take_quantiles(arrays, prefix, m)
    model._layout = Layout(
        [node.expert_name], [np.arange(m)], [model.concept_names_], np.array([], dtype=int)
    )
    return model


def pack_gated(model, arrays, prefix, trusted=()):
    """Return the `GatedNode` of a fitted mixture; its out-of-fold logits are not kept.

    Raises
    ------
    InputError
        If an expert has a head that has no safe form.
    """
    heads = []
    for e, head in enumerate(model.heads_):
        own = f"{prefix}.heads.{e}"
        if isinstance(head, ForeignHead):
            seen = (model.concept_names_[e], head.name in model._layout.gaps)
            heads.append(pack_foreign_head(head, *seen, arrays, own, trusted))
            if hasattr(model, "concept_quantiles_"):
                arrays[f"{own}.concept_quantiles"] = model.concept_quantiles_[e]
        else:
            heads.append(pack_head(head, arrays, own))
    experts, templates = pack_templates(model, arrays, f"{prefix}.templates", trusted)
    for name in ("expert_scale", "pool_scale", "class_log_prior"):
        arrays[f"{prefix}.{name}"] = getattr(model, f"{name}_")
    for name, array in model.gate_state_.arrays.items():
        arrays[f"{prefix}.gate.{name}"] = np.asarray(array)
    for name, array in model.gate_input_state_.items():
        arrays[f"{prefix}.gate_input.{name}"] = array
    components = model.gate_input_state_.get("components")
    hidden = model.gate_state_.arrays.get("hidden_bias", ())
    common = pack_common(model, arrays, prefix, experts=experts)
    return GatedNode(
        **common,
        **_pack_alpha(model),
        heads=heads,
        templates=templates,
        expert_columns=[columns.tolist() for columns in model.expert_columns_],
        gate_columns=model._layout.gate_columns.tolist(),
        masked_experts=getattr(model, "masked_experts_", ()),
        gate=model.gate_state_.kind,
        gate_hidden=len(hidden),
        gate_components=None if components is None else len(components),
        selected=model.selected_,
        fallback=model.fallback_,
        oof_log_loss={name: float(loss) for name, loss in model.oof_log_loss_.items()},
        routing_information=float(model.routing_information_),
        specialized=model.specialized_,
    )


def unpack_gated(node, arrays, prefix, trusted=()):
    """Return the fitted mixture of a `GatedNode`."""
    model = build(GatedConceptBottleneckClassifier, node)
    checked(model._check_parameters)
    model.class_log_prior_ = take(
        arrays, f"{prefix}.class_log_prior", (len(node.classes.values),), "float64"
    )
    unpack_common(model, node, arrays, prefix)
    _unpack_alpha(model, node)
    classes, exclusive = model.classes_, not node.multilabel
    model.heads_ = []
    for e, head in enumerate(node.heads):
        own = f"{prefix}.heads.{e}"
        if head.kind == "foreign head":
            other = unpack_foreign_head(head, classes, exclusive, arrays, own, trusted)
            if f"{own}.concept_quantiles" in arrays:
                other.concept_quantiles_ = take_quantiles(arrays, own, head.n_features_in, True)
            model.heads_.append(other)
        else:
            model.heads_.append(unpack_head(head, arrays, own))
    unpack_templates(model, node, arrays, f"{prefix}.templates", trusted)
    n_experts, m = len(node.heads), sum(head.n_features_in for head in node.heads)
    for name in ("expert_scale", "pool_scale"):
        array = take(arrays, f"{prefix}.{name}", (n_experts,), "float64", positive=True)
        setattr(model, f"{name}_", array)

    there = {
        name.removeprefix(f"{prefix}.gate_input."): array.shape
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.gate_input.")
    }
    shapes, width = input_shapes(there, m, n_experts, len(node.gate_columns), node.gate_components)
    dtypes = {"expert": "int64", "index": "int64", "top_k": "int64"}
    model.gate_input_state_ = {
        name: take(
            arrays,
            f"{prefix}.gate_input.{name}",
            shape,
            dtypes.get(name, "float64"),
            positive=name in _POSITIVE,
        )
        for name, shape in shapes.items()
    }
    hidden = node.gate_hidden
    affine = {"slope": (n_experts, width), "bias": (n_experts,)}
    shapes = {
        "uniform": {},
        "expert": {"index": ()},
        "constant": {"bias": (n_experts,)},
        "linear": affine,
        "gaussian": affine,
        "laplace": {"centre": (n_experts, width), "bias": (n_experts,), "scale": ()},
        "mlp": {
            "hidden_weight": (hidden, width),
            "hidden_bias": (hidden,),
            "out_weight": (n_experts, hidden),
            "out_bias": (n_experts,),
        },
    }[node.gate]
    if f"{prefix}.gate.top_k" in arrays:
        shapes = {**shapes, "top_k": ()}
    model.gate_state_ = GateState(
        node.gate,
        {
            name: take(arrays, f"{prefix}.gate.{name}", shape, dtypes.get(name, "float64"))
            for name, shape in shapes.items()
        },
    )
    named = [model.gate_state_.arrays.get("index"), model.gate_input_state_.get("expert")]
    if any(e is not None and not 0 <= e < n_experts for e in named):
        raise FormatError("The gate names an expert that is not there; save the model again.")
    if not 1 <= model.gate_state_.arrays.get("top_k", 1) <= n_experts:
        raise FormatError("The gate's top_k is no number of experts; save the model again.")

    model.expert_names_ = [head.expert_name for head in node.heads]
    model.expert_columns_ = [np.array(columns, dtype=int) for columns in node.expert_columns]
    model.concept_names_ = [list(head.concept_names) for head in node.heads]
    model._layout = Layout(
        model.expert_names_,
        model.expert_columns_,
        model.concept_names_,
        np.array(node.gate_columns, dtype=int),
        frozenset(head.expert_name for head in node.heads if getattr(head, "sees_gaps", False)),
    )
    if node.masked_experts:
        model.masked_experts_ = node.masked_experts
    model.prior_used_ = {head.expert_name: head.prior_used for head in node.heads}
    model.selected_, model.fallback_ = node.selected, node.fallback
    model.oof_log_loss_ = dict(node.oof_log_loss)
    model.routing_information_ = node.routing_information
    model.specialized_ = node.specialized
    if all(hasattr(head, "concept_quantiles_") for head in model.heads_):
        model.concept_quantiles_ = [head.concept_quantiles_ for head in model.heads_]
    return model


def _head_shapes(m, n_classes, multilabel):
    k = 1 if n_classes == 2 and not multilabel else n_classes
    return {
        "association": (k, m),
        "intercept": (k,),
        "mean": (m,),
        "scale": (m,),
        "prior_association": (k, m),
        "class_log_prior": (n_classes,),
    }


def _pack_alpha(model):
    path = {name: [float(v) for v in values] for name, values in model.alpha_path_.items()}
    return {"alpha": None if model.alpha_ is None else float(model.alpha_), "alpha_path": path}


def _unpack_alpha(model, node):
    model.alpha_ = node.alpha
    model.alpha_path_ = {name: list(path) for name, path in node.alpha_path.items()}
