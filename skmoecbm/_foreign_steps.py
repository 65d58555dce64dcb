"""Steps, experts and heads that are not of this package, as nodes and back."""

import numpy as np
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from skmoecbm._foreign import ForeignHead
from skmoecbm._foreign_saving import pack_foreign, unpack_foreign
from skmoecbm._schema_foreign import ForeignHeadNode, PassthroughNode
from skmoecbm.exceptions import FormatError

__all__ = [
    "pack_foreign_head",
    "pack_step",
    "passthrough",
    "take_foreign",
    "unpack_foreign_head",
    "unpack_passthrough",
    "unpack_step",
]


def pack_step(what, step, arrays, prefix, trusted):
    """Return the node of a step of a pipeline or an expert of a union."""
    if step is None or isinstance(step, str):  # "passthrough"
        return PassthroughNode()
    check_is_fitted(step)
    return pack_foreign(what, step, arrays, f"{prefix}.skops", trusted)


def unpack_step(node, arrays, prefix, trusted):
    """Return the transformer of a `ForeignNode`."""
    estimator = take_foreign(node, arrays, f"{prefix}.skops", trusted)
    if not (hasattr(estimator, "fit") and hasattr(estimator, "transform")):
        raise FormatError(f"A {node.class_name:.80} is no transformer; save the model again.")
    return estimator


def passthrough(transformer):
    """Return the node of the fitted transformer that a union puts in the place of a word."""
    names = getattr(transformer, "feature_names_in_", None)
    return PassthroughNode(
        n_features_in=transformer.n_features_in_,
        feature_names_in=None if names is None else tuple(names),
    )


def unpack_passthrough(node, arrays, prefix, trusted):
    """Return what a union has fitted for a word, or the word, where it is a step."""
    if node.n_features_in is None:
        return "passthrough"
    transformer = FunctionTransformer(feature_names_out="one-to-one")
    transformer.n_features_in_ = node.n_features_in
    if node.feature_names_in is not None:
        if len(node.feature_names_in) != node.n_features_in:
            raise FormatError("feature_names_in and n_features_in differ; save the model again.")
        transformer.feature_names_in_ = np.array(node.feature_names_in, dtype=object)
    return transformer


def pack_foreign_head(head, columns, sees_gaps, arrays, prefix, trusted):
    """Return the node of a `ForeignHead` on columns of these names."""
    constant = () if np.isnan(head.constant).all() else head.constant.tolist()
    what = f"The head of expert {head.name!r}"
    return ForeignHeadNode(
        expert_name=head.name,
        concept_names=columns,
        n_features_in=len(columns),
        floor=float(head.floor),
        constant=[None if one != one else int(one) for one in constant],
        sees_gaps=sees_gaps,
        estimator=pack_foreign(what, head.estimator, arrays, f"{prefix}.skops", trusted),
    )


def unpack_foreign_head(node, classes, exclusive, arrays, prefix, trusted):
    """Return the `ForeignHead` of a node; a linear classifier is asked about rows of chance."""
    if len(node.concept_names) != node.n_features_in:
        raise FormatError(f"{prefix}: the head does not fit its columns; save the model again.")
    estimator = take_foreign(node.estimator, arrays, f"{prefix}.skops", trusted)
    constant = None
    if node.constant:
        if len(node.constant) != len(classes):
            raise FormatError(f"{prefix}: the head does not fit the labels; save the model again.")
        constant = np.array([np.nan if one is None else one for one in node.constant], dtype=float)
    columns = list(node.concept_names)
    try:
        head = ForeignHead(
            node.expert_name, estimator, classes, exclusive, node.floor, columns, constant
        )
        if exclusive:
            known = set(classes.tolist()) & set(np.asarray(estimator.classes_).tolist())
    # Attributes of trusted types, but of any value: what scikit-learn makes of them is not known.
    except Exception as error:
        raise FormatError(
            f"The head of expert {node.expert_name!r:.80} cannot be asked: {str(error)[:300]}"
        ) from error
    asked = hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")
    if not asked or (exclusive and not known):
        raise FormatError(f"{prefix}: the head does not fit the classes; save the model again.")
    return head


def take_foreign(node, arrays, name, trusted):
    """Take the bytes of an estimator out of the arrays and return it."""
    array = arrays.pop(name, None)
    if array is None or array.dtype != np.uint8 or array.shape != (node.n_bytes,):
        raise FormatError(
            f"The array {name!r} must be {node.n_bytes} numbers of uint8; fetch or save the model "
            "again."
        )
    return unpack_foreign(node, np.asarray(array), trusted)
