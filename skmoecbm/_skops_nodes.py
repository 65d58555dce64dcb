"""The nodes of an estimator's schema, as skops writes them, read without skops."""

import json

from skmoecbm.exceptions import FormatError

__all__ = ["NODE", "mapping", "of_kind", "plain", "plain_value", "values_of"]

NODE = {"__class__", "__module__", "__loader__"}  # what every node has


def plain(node, gate):
    """Return the value of a checked node of lists, tuples, dicts, numbers and plain values."""
    match mapping(node):
        case {"__loader__": "JsonNode"}:
            return plain_value(node)
        case {"__loader__": "ListNode" | "TupleNode", "content": list(parts)}:
            return [plain(part, gate) for part in parts]
        case {"__loader__": "DictNode"}:
            return {key: plain(part, gate) for key, part in values_of(node).items()}
        case {"__loader__": "NdArrayNode", "__class__": str(own)} if own != "ndarray":
            return gate.array(node).item()
    raise FormatError("an estimator has an object where a plain value should be.")


def plain_value(node):
    """Return the value that a JsonNode holds: None, a bool, a number or a str."""
    text = node.get("content") if node.get("__loader__") == "JsonNode" else None
    if not isinstance(text, str) or set(node) - {*NODE, "__id__"} != {"content", "is_json"}:
        raise FormatError("an estimator has a plain value that is none.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("an estimator has a plain value that is no JSON.") from None
    if isinstance(value, list | dict):
        raise FormatError("an estimator has a plain value that is a list.")
    return value


def values_of(node):
    of_kind(node, "DictNode")
    return node["content"]


def of_kind(node, loader):
    if mapping(node).get("__loader__") != loader:
        raise FormatError(f"an estimator has no {loader} where one should be.")


def mapping(part):
    if not isinstance(part, dict):
        raise FormatError("an estimator has no object where one should be.")
    return part
