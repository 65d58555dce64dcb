"""What must hold of an estimator's schema before skops may see it.

skops decides by the names of types. This looks first, and at more: which kind of node may make
which type, that no node has another form than skops writes, that arrays are arrays and no pickles,
and that the numbers which compiled code goes by without looking stay within their arrays.
"""

import io
import math
import re

import numpy as np

from skmoecbm._skops_nodes import NODE, mapping, of_kind, plain, plain_value, values_of
from skmoecbm._skops_numbers import check_generator, check_hist_tree, check_state, check_tree
from skmoecbm._skops_types import default_types
from skmoecbm.exceptions import FormatError

__all__ = ["Gate"]

_MODULE = re.compile(r"[A-Za-z_]\w{0,63}(\.[A-Za-z_]\w{0,63}){0,15}", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)
# What a user may vouch for is made by these alone.
_OF_USERS = {"FunctionNode", "ObjectNode", "TypeNode"}
# Not bool, of which skops makes True whatever it was.
_KEYS = {f"builtins.{name}" for name in ("float", "int", "str")}
_KEYS |= {f"numpy.{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)}
_KEYS |= {"numpy.float32", "numpy.float64", "numpy.str_"}
_HIST_TREE = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
_KINDS = "biufcmMSU"
_PROTOCOL = 2  # older files are read by older nodes of skops, which look less closely


class Gate:
    """One pass through the schema of an estimator.

    Parameters
    ----------
    schema : dict
    members : dict of str to bytes
    trusted : collection of str
        Types that the user vouches for.

    Attributes
    ----------
    types : set of str
        All types that are named.
    unusual : set of str
        Those that this package does not trust.
    untrusted : set of str
        Those that neither this package nor the user trusts.

    Raises
    ------
    FormatError
        If the schema has another form than skops writes.
    """

    def __init__(self, schema, members, trusted=()):
        self.members, self.trusted = members, frozenset(trusted)
        self.types, self.unusual, self.untrusted = set(), set(), set()
        self._allowed, self._seen, self._used, self._arrays = default_types(), {}, set(), {}
        schema = dict(mapping(schema))
        protocol, version = schema.pop("protocol", None), schema.pop("_skops_version", None)
        if type(protocol) is not int or protocol < _PROTOCOL or not isinstance(version, str):
            raise FormatError("an estimator is not of a version of skops that is read here.")
        self._check(schema)
        if set(members) != self._used:
            raise FormatError("an estimator has parts that its schema does not use.")
        self.class_name = schema["__class__"]
        if schema["__loader__"] != "ObjectNode":
            raise FormatError(f"an estimator was expected, not a {self.class_name!r:.80}.")

    def array(self, node):
        """Return the numbers of a node of an array that is one member."""
        of_kind(node, "NdArrayNode")
        name = mapping(node).get("file")
        if not isinstance(name, str) or name not in self.members:
            raise FormatError(f"an estimator has no part {name!r:.80}.")
        if name not in self._arrays:
            self._arrays[name] = _read_array(name, self.members[name])
        return self._arrays[name]

    def _check(self, node):
        """Check a node and those in it."""
        node = mapping(node)
        if "__id__" in node:
            key = node["__id__"]
            if type(key) is not int or key < 1:
                raise FormatError("an estimator has an object with a bad number.")
            if key in self._seen:
                # skops takes the first of a number and does not look at the others
                if self._seen[key] != node:
                    raise FormatError("an estimator has two objects of one number.")
            self._seen[key] = node
        loader, module, own = (node.get(key) for key in ("__loader__", "__module__", "__class__"))
        if not isinstance(loader, str) or loader not in self._allowed:
            raise FormatError(
                f"an estimator holds a {own!r:.80} ({loader!r:.40}), a kind of object that is not "
                "kept: no methods, partial functions, operators, sparse matrices."
            )
        # anything else could be found by Python and not be the name that was trusted
        named = isinstance(module, str) and isinstance(own, str)
        if not named or not _MODULE.fullmatch(module) or not _CLASS.fullmatch(own):
            raise FormatError(f"{module!s:.80}.{own!s:.80} is no name that could be found again.")
        name = f"{module}.{own}"
        self.types.add(name)
        if name not in self._allowed[loader]:
            self.unusual.add(name)
            if name not in self.trusted or loader not in _OF_USERS:
                self.untrusted.add(name)
        content = {key: part for key, part in node.items() if key not in (*NODE, "__id__")}
        getattr(self, f"_{loader}")(content, node)

    def _parts(self, content, *names):
        if set(content) != set(names):
            raise FormatError("an estimator has an object with other parts than skops gives it.")
        return [content[name] for name in names]

    def _all(self, nodes):
        if not isinstance(nodes, list):
            raise FormatError("an estimator has no list where one should be.")
        for node in nodes:
            self._check(node)

    def _file(self, name, ending):
        if not isinstance(name, str) or not name.endswith(ending) or name not in self.members:
            raise FormatError(f"an estimator has no part {name!r:.80}.")
        self._used.add(name)

    def _sequence(self, content, node):
        (parts,) = self._parts(content, "content")
        self._all(parts)

    _ListNode = _SetNode = _TupleNode = _sequence

    def _DictNode(self, content, node):
        values, keys = self._parts(content, "content", "key_types")
        self._check(keys)
        of_kind(keys, "ListNode")
        for key in keys["content"]:
            of_kind(key, "TypeNode")
            if f"{key['__module__']}.{key['__class__']}" not in _KEYS:
                raise FormatError("an estimator has a dict with keys that are not str or numbers.")
        if len(keys["content"]) != len(mapping(values)):
            raise FormatError("an estimator has a dict with fewer or more keys than values.")
        self._all(list(values.values()))

    def _JsonNode(self, content, node):
        plain_value(node)

    def _ObjectNode(self, content, node):
        if content:
            (state,) = self._parts(content, "content")
            self._check(state)
            name = f"{node['__module__']}.{node['__class__']}"
            if name == _HIST_TREE:
                check_hist_tree(self, values_of(state))
            if name in self._allowed["ObjectNode"] and not (
                state["__loader__"] == "DictNode"
                or (state["__loader__"] == "JsonNode" and state["content"] == "null")
            ):
                raise FormatError("an estimator of scikit-learn has no attributes by name.")

    def _NdArrayNode(self, content, node):
        if content.get("type") == "json":
            parts, _, shape = self._parts(content, "content", "type", "shape")
            self._all(parts)
            self._check(shape)
            sizes = plain(shape, self)
            if node["__class__"] != "ndarray" or not all(type(n) is int and n >= 0 for n in sizes):
                raise FormatError("an estimator has an array of objects without a shape.")
            return
        kind, name = self._parts(content, "type", "file")
        self._file(name, ".npy")
        array = self.array(node)
        if kind != "numpy" or (node["__class__"] != "ndarray" and array.shape != ()):
            raise FormatError("an estimator has a number that is no single number.")

    def _BytesNode(self, content, node):
        (name,) = self._parts(content, "file")
        self._file(name, ".bin")

    _BytearrayNode = _BytesNode

    def _nothing_more(self, content, node):
        self._parts(content)

    _FunctionNode = _TypeNode = _nothing_more

    def _SliceNode(self, content, node):
        (ends,) = self._parts(content, "content")
        for end in self._parts(mapping(ends), "start", "stop", "step"):
            if end is not None and type(end) not in (int, str):
                raise FormatError("an estimator has a slice without ends.")

    def _DTypeNode(self, content, node):
        (array,) = self._parts(content, "content")
        self._check(array)
        of_kind(array, "NdArrayNode")

    def _MaskedArrayNode(self, content, node):
        (parts,) = self._parts(content, "content")
        for part in self._parts(mapping(parts), "data", "mask"):
            self._check(part)
            of_kind(part, "NdArrayNode")

    def _RandomStateNode(self, content, node):
        (state,) = self._parts(content, "content")
        self._check(state)
        check_state(self, state)

    def _RandomGeneratorNode(self, content, node):
        (parts,) = self._parts(content, "content")
        bits, seed = self._parts(mapping(parts), "bit_generator", "seed_seq")
        self._check(bits)
        self._check(seed)
        check_generator(plain(bits, self), plain(seed, self))

    def _reduced(self, content):
        reduced, state = self._parts(content, "__reduce__", "content")
        (arguments,) = self._parts(mapping(reduced), "args")
        self._check(arguments)
        self._check(state)
        of_kind(arguments, "TupleNode")
        return arguments["content"], state

    def _LossNode(self, content, node):
        arguments, state = self._reduced(content)
        values = [plain_value(one) for one in arguments]
        if not all(type(one) in (int, float) for one in values) or plain(state, self):
            raise FormatError("an estimator has a loss that is not made of numbers.")

    def _TreeNode(self, content, node):
        arguments, state = self._reduced(content)
        check_tree(self, arguments, values_of(state))


def _read_array(name, content):
    """Return the array of a .npy file: a header that numpy reads, then exactly its numbers."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream)
    # of numpy on a header that is none, KeyError of a version that is not known here
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise FormatError(f"the part {name!r} of an estimator is no array ({error}).") from None
    fields = [dtype[field] for field in dtype.names] if dtype.names else [dtype]
    good = all(field.kind in _KINDS and not field.hasobject for field in fields)
    rest, size = content[stream.tell() :], math.prod(shape)
    if not good or any(n < 0 for n in shape) or size * dtype.itemsize != len(rest):
        raise FormatError(f"the part {name!r} of an estimator is not the array that it says it is.")
    if size > len(rest):  # items of no size, of which there may be any number
        raise FormatError(f"the part {name!r} of an estimator has items without content.")
    array = np.frombuffer(rest, dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C")
