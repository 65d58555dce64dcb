"""Numbers that compiled code goes by without looking, checked before an object is made of them.

A tree of scikit-learn finds the next node, and the column, where its numbers say; one that points
out of its array would read foreign memory or never end.
"""

import functools

import numpy as np

from skmoecbm._skops_nodes import plain_value, values_of
from skmoecbm.exceptions import FormatError

__all__ = ["check_generator", "check_hist_tree", "check_state", "check_tree"]


def check_tree(gate, arguments, state):
    """Check the nodes of a `sklearn.tree._tree.Tree`, and that its sizes are those of its arrays.

    Parameters
    ----------
    gate : Gate
    arguments : list of nodes
        Of the constructor: columns, classes of each output, outputs.
    state : dict of str to nodes
    """
    if len(arguments) != 3 or set(state) != {"max_depth", "node_count", "nodes", "values"}:
        raise _damaged()
    n_features, n_outputs = plain_value(arguments[0]), plain_value(arguments[2])
    depth, n_nodes = plain_value(state["max_depth"]), plain_value(state["node_count"])
    classes, nodes, values = map(gate.array, (arguments[1], state["nodes"], state["values"]))
    if not all(type(n) is int and n >= 0 for n in (n_features, n_outputs, depth, n_nodes)):
        raise _damaged()
    if nodes.dtype != _node_dtype() or nodes.shape != (n_nodes,) or n_nodes < 1:
        raise _damaged()
    if classes.dtype.kind not in "iu" or classes.shape != (n_outputs,) or n_outputs < 1:
        raise _damaged()
    if classes.min() < 1 or values.shape != (n_nodes, n_outputs, classes.max()):
        raise _damaged()
    if values.dtype != np.float64:
        raise _damaged()
    left, right = nodes["left_child"], nodes["right_child"]
    if _check_children(left, right, left == -1, n_nodes) > depth:
        raise _damaged()
    if not _below(nodes["feature"][left != -1], n_features):
        raise _damaged()


def check_hist_tree(gate, state):
    """Check the nodes of a tree of histogram gradient boosting; its columns are checked later."""
    if set(state) != {"nodes", "binned_left_cat_bitsets", "raw_left_cat_bitsets"}:
        raise _damaged()
    nodes = gate.array(state["nodes"])
    bitsets = [gate.array(state[f"{name}_left_cat_bitsets"]) for name in ("binned", "raw")]
    names = {"value", "feature_idx", "left", "right", "is_leaf", "is_categorical", "bitset_idx"}
    if nodes.ndim != 1 or not names <= set(nodes.dtype.names or ()):
        raise _damaged()
    if any(bits.dtype != np.uint32 or bits.shape[1:] != (8,) for bits in bitsets):
        raise _damaged()
    inner = nodes["is_leaf"] == 0
    _check_children(
        nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), ~inner, len(nodes)
    )
    split = nodes[inner & (nodes["is_categorical"] != 0)]
    if (nodes["feature_idx"][inner] < 0).any():
        raise _damaged()
    if not all(_below(split["bitset_idx"], len(bits)) for bits in bitsets):
        raise _damaged()


def check_state(gate, node):
    """Check the content of a `numpy.random.RandomState`."""
    state = dict(values_of(node))
    words = dict(values_of(state.pop("state", None)))
    key = gate.array(words.pop("key", None))
    rest = {name: plain_value(one) for name, one in (state | words).items()}
    good = set(rest) == {"bit_generator", "has_gauss", "gauss", "pos"}
    good = good and rest["bit_generator"] == "MT19937" and rest["has_gauss"] in (0, 1)
    good = good and type(rest["gauss"]) in (int, float)
    good = good and key.shape == (624,) and key.dtype == np.uint32
    if not good or type(rest["pos"]) is not int or not 0 <= rest["pos"] <= 624:
        raise _damaged("random state")


def check_generator(bits, seed):
    """Check the content of a `numpy.random.Generator`, as plain values."""
    good = isinstance(bits, dict) and isinstance(seed, dict)
    good = good and set(bits) == {"bit_generator", "state", "has_uint32", "uinteger"}
    good = good and bits["bit_generator"] == "PCG64" and bits["has_uint32"] in (0, 1)
    good = good and type(bits["uinteger"]) is int and 0 <= bits["uinteger"] < 2**32
    good = good and isinstance(bits["state"], dict) and set(bits["state"]) == {"state", "inc"}
    good = good and all(type(n) is int and 0 <= n < 2**128 for n in bits["state"].values())
    # the pool would be as large as the file says
    good = good and set(seed) == {"entropy", "spawn_key", "pool_size", "n_children_spawned"}
    if not good or seed["pool_size"] != 4:
        raise _damaged("random state")


def _check_children(left, right, leaf, n_nodes):
    """Check that each node but the first has one parent before it; return how deep they stand."""
    if n_nodes < 1:
        raise _damaged()
    place = np.flatnonzero(~leaf)
    children = np.concatenate([left[place], right[place]])
    parents = np.concatenate([place, place])
    good = _below(children, n_nodes) and (children > parents).all()
    if not good or len(np.unique(children)) < len(children):
        raise _damaged()
    level, depth = np.zeros(1, dtype=np.int64), -1
    while level.size:
        level, depth = level[~leaf[level]], depth + 1
        level = np.concatenate([left[level], right[level]])
    return depth


def _below(numbers, end):
    return bool(((numbers >= 0) & (numbers < end)).all())


@functools.cache
def _node_dtype():
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=1).fit([[0.0], [1.0]], [0, 1]).tree_
    return tree.__getstate__()["nodes"].dtype


def _damaged(what="tree"):
    return FormatError(f"an estimator has a {what} whose numbers point out of it.")
