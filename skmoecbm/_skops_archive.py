"""The bytes that skops makes of an estimator: a zip of `schema.json` and arrays, in normal form.

skops names objects by their addresses and members by the same or by chance. In normal form the same
estimator gives the same bytes, in any process; plain `skops.io.loads` reads them.
"""

import io
import json
import re
import struct
import zipfile

import numpy as np

from skmoecbm._config_bytes import read_object
from skmoecbm.exceptions import FormatError

__all__ = ["SCHEMA", "normal_form", "read_archive", "write_archive"]

SCHEMA = "schema.json"
_MEMBER = re.compile(r"schema\.json|\d{1,6}\.(npy|bin)")
_MAX_MEMBERS = 100_000
# Checked before it is parsed. A tree of a forest has 60 objects and 5 kB, so that there is room for
# 5,000 trees; an estimator within another takes about eight levels.
_MAX_SCHEMA = {
    "max_bytes": 32 * 2**20,
    "max_values": 1_500_000,
    "max_objects": 300_000,
    "max_depth": 200,
}
# Of these it makes no difference whether two are one object, and chance decides whether they are.
_VALUES = {"DTypeNode", "FunctionNode", "JsonNode", "TypeNode"}

# Attributes of scikit-learn that are of one machine: an address, and a folder for what `fit` finds
# out. Estimators do without.
_LOCAL = ("_stop_words_id", "memory")
_NOTHING = {
    "__class__": "str",
    "__module__": "builtins",
    "__loader__": "JsonNode",
    "content": "null",
    "is_json": True,
}


def read_archive(content):
    """Return the schema and the other members of a zip in normal form.

    The members are stored, not compressed: together they are never larger than `content`.

    Returns
    -------
    schema : dict
    members : dict of str to bytes

    Raises
    ------
    FormatError
        If it is no such zip: damaged, compressed, with a member twice, of another name or too
        large, or with a schema that is no JSON object, too large or nested too deeply.
    """
    members, room = {}, len(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_MEMBERS:
                raise FormatError(f"an estimator has {len(infos)} parts; {_MAX_MEMBERS} may be.")
            for info in infos:
                name, room = info.filename, room - info.file_size
                if not _MEMBER.fullmatch(name) or name in members:
                    raise FormatError(f"an estimator has a part {name!r:.80}, or has it twice.")
                stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
                if not stored or info.compress_size != info.file_size or room < 0:
                    raise FormatError(f"the part {name!r} of an estimator is not stored as it is.")
                if name == SCHEMA and info.file_size > _MAX_SCHEMA["max_bytes"]:
                    raise FormatError(f"the schema of an estimator has {info.file_size} bytes.")
                members[name] = archive.read(info)
    # what zipfile raises on damaged bytes; RuntimeError and NotImplementedError of odd features
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"an estimator is no archive of skops ({error}).") from None
    if SCHEMA not in members:
        raise FormatError("an estimator has no schema.")
    return read_object(members.pop(SCHEMA), "the schema of an estimator", **_MAX_SCHEMA), members


def write_archive(schema, members):
    """Return the zip of a schema and its members: stored, in their order, of no time."""
    buffer = io.BytesIO()
    text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in ((SCHEMA, text), *members.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16  # else as the platform has it
            archive.writestr(info, content)
    return buffer.getvalue()


def normal_form(content, replaced=()):
    """Return the bytes of `skops.io.dumps` in normal form.

    Parameters
    ----------
    content : bytes
    replaced : dict of int to (schema, members)
        The `id` of an object -> what stands in its place.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    schema = json.loads(members.pop(SCHEMA))
    for node in _nodes(schema):
        _forget_places(node)
        if node.get("__id__") in replaced:
            other, extra = replaced[node["__id__"]]
            node |= other
            members |= extra
    return write_archive(*_Renaming(schema, members).result())


class _Renaming:
    """Ids and members of a schema, numbered as they appear."""

    def __init__(self, schema, members):
        self.old_members, self.members = members, {}
        self.n_uses, self.numbers, self.done, self.names = {}, {}, {}, {}
        for node in _nodes(schema):
            key = node.get("__id__")
            self.n_uses[key] = self.n_uses.get(key, 0) + 1
        self.schema = self._renamed(schema)

    def result(self):
        return self.schema, self.members

    def _renamed(self, part):
        if isinstance(part, list):
            return [self._renamed(one) for one in part]
        if not isinstance(part, dict):
            return part
        if not _is_node(part):  # a mapping of names to nodes
            return {name: self._renamed(one) for name, one in part.items()}
        key = part.get("__id__")
        if key in self.done:
            return self.done[key]  # skops reads an object where it stands first, and only there
        shared = key is not None and self.n_uses[key] > 1 and part["__loader__"] not in _VALUES
        number = self.numbers.setdefault(key, len(self.numbers) + 1) if shared else None
        node = {
            name: self._member(one) if name == "file" else self._renamed(one)
            for name, one in part.items()
            if name != "__id__"
        }
        if part["__loader__"] == "SetNode":  # the order of a set is that of its hashes
            node["content"].sort(key=json.dumps)
        if shared:
            node["__id__"] = number
            self.done[key] = node
        return node

    def _member(self, name):
        if name not in self.names:
            self.names[name] = f"{len(self.names)}.{name.rpartition('.')[2]}"
            self.members[self.names[name]] = _without_gaps(self.old_members[name])
        return self.names[name]


def _is_node(part):
    # a mapping may have any key: words of a vocabulary are some
    return isinstance(part, dict) and isinstance(part.get("__loader__"), str)


def _forget_places(node):
    """Take out of an object of scikit-learn, in place, what is of this machine."""
    content = node.get("content")
    is_object = node["__loader__"] == "ObjectNode" and node["__module__"].startswith("sklearn.")
    if is_object and _is_node(content) and content["__loader__"] == "DictNode":
        attributes = content["content"]
        attributes |= {name: dict(_NOTHING) for name in _LOCAL if name in attributes}


def _nodes(part):
    """Yield the nodes of a schema, each before those in it."""
    if _is_node(part):
        yield part
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from _nodes(one)


def _without_gaps(content):
    """Return a .npy file with zeros between the fields of its records, where memory was left."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, dtype=array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()
