"""Damage to saved models, from one wrong byte to a hostile author, drawn from a `random.Random`."""

import hashlib
import json
import math
import re
import struct
from copy import deepcopy

import numpy as np

__all__ = ["KINDS", "mutated", "read_arrays", "write_arrays"]

CONFIG, ARRAYS = "config.json", "model.safetensors"
_NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "bool": "BOOL", "uint8": "U8"}

STRINGS = [
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "\\\\server\\share",
    "file:///etc/passwd",
    "https://example.org/model.bin",
    "hf-hub:https://example.org/x",
    "hf-hub:../../x",
    "hf-hub:org/repo@main",
    "local-dir:../up",
    "local-dir:~root",
    "local-dir:a/b",
    "demo-structures",
    "ViT-B-16/openai",
    "ViT-B-16/https://example.org",
    "a\0b",
    "\ud800",
    "\u202e\u0000\uffff",
    "x" * 5000,
    "{}{}",
    "{0.__class__}",
    "__class__",
    "__reduce__",
    "os.system",
    "subprocess.Popen",
    "left__x",
    "expert",
    "train",
    "auto",
    "<U99999",
    "|O",
    "<f8",
    "|b1",
    "ConceptEncoder",
    "ConceptBottleneckClassifier",
    "nan",
    "(a+)+$" * 20,
]
NUMBERS = [
    0, 1, 2, 3, 7, -1, -7, 2**31, 2**31 - 1, 2**31 + 1, 2**53, 2**63, 2**64 - 1, 10**19, 10**25,
    0.0, -0.0, 0.5, 1.5, 1e-320, 1e-30, 1e30, -1e30, 1e300, 1.7976931348623157e308,
]  # fmt: skip
RAW = ["1e999", "-1e999", "NaN", "Infinity", "1" * 5000, "-" + "9" * 300, "0." + "1" * 500, "1E400"]
OBJECTS = [
    {},
    [],
    [[]],
    [{}],
    {"": ""},
    {"$object": "os.system", "parameters": {}},
    {"$object": "ConceptBottleneckClassifier", "parameters": {}},
    {"$object": "LinearGate", "parameters": {"penalty": -1}},
    {"$object": "ConstantGate", "parameters": {"args": 1}},
    {"$object": "MLPGate", "parameters": {"hidden": 10**12}},
    {"$object": "JointTraining", "parameters": {"max_epochs": 10**12}},
    {"$object": "TopKConcepts", "parameters": {"k": {"$tuple": [1, {"$slice": [0, None, 2]}]}}},
    {"$tuple": []},
    {"$tuple": [[[[[]]]]]},
    {"$slice": [0, 10**12, 1]},
    {"$pairs": [[None, 1], [True, 2], [1, 3]]},
    {"$pairs": [["mel", 1e-300]]},
    {"$pairs": [["mel", 0.999999999999], ["nv", 1e-12]]},
    {"kind": "ConceptEncoder"},
]


def mutated(kind, name, models, rng):
    """Return the files of a model after damage of one kind, file name -> bytes.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    name : str
        The model to start from.
    models : dict of str to dict of str to bytes
        Files of every model; parts of the others may be grafted in.
    rng : random.Random
    """
    return KINDS[kind](dict(models[name]), models, rng)


def _bytes_of_config(files, models, rng):
    files[CONFIG] = _damaged(files[CONFIG], rng)
    return files


def _bytes_of_arrays(files, models, rng):
    files[ARRAYS] = _damaged(files[ARRAYS], rng)
    return files if rng.random() < 0.3 else _trusted(files)


def _values(files, models, rng):
    data = json.loads(files[CONFIG])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        _change_value(data, models, rng)
    return {**files, CONFIG: _dumped(data, rng)}


def _numbers(files, models, rng):
    """Change numbers and texts, but not their types: what gets through every schema."""
    data = json.loads(files[CONFIG])
    for _ in range(rng.choice([1, 1, 2, 4])):
        parent, key = _a_place(data, rng, leaf=True)
        old = parent[key]
        if isinstance(old, bool):
            parent[key] = not old
        elif isinstance(old, int):
            parent[key] = rng.choice([old + 1, old - 1, 0, 1, -old, 2 * old, rng.choice(NUMBERS)])
        elif isinstance(old, float):
            parent[key] = rng.choice([-old, old * 1e10, old / 1e10, float(rng.choice(NUMBERS))])
        elif isinstance(old, str):
            other = _a_leaf(data, rng, str)
            parent[key] = rng.choice([other, old + "x", old[:-1], old.upper(), rng.choice(STRINGS)])
        else:
            parent[key] = rng.choice([0, "a", False, 0.5])
    return {**files, CONFIG: _dumped(data, rng)}


def _names(files, models, rng):
    """Put names into other lists of names, twice, or none, which other damage seldom does."""
    data = json.loads(files[CONFIG])
    lists = list(_lists_of_names(data["model"]))
    for _ in range(rng.choice([1, 1, 2])):
        own = rng.choice(lists)
        how = rng.choice(["add", "add", "drop", "twice", "swap", "all", "none"])
        if how == "add":
            own.insert(rng.randrange(len(own) + 1), rng.choice(rng.choice(lists) or ["x"]))
        elif how == "drop" and own:
            del own[rng.randrange(len(own))]
        elif how == "twice":
            own.extend(own)
        elif how == "swap":
            rng.shuffle(own)
        elif how == "all":
            own[:] = rng.choice(lists)
        else:
            own.clear()
    return {**files, CONFIG: _dumped(data, rng)}


def _lists_of_names(node):
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, dict | list) else ():
        if isinstance(child, list) and child and all(isinstance(one, str) for one in child):
            yield child
        else:
            yield from _lists_of_names(child)


def _parameters(files, models, rng):
    """Give constructor parameters other values, which the estimators check and not the schema."""
    data = json.loads(files[CONFIG])
    for _ in range(rng.choice([1, 1, 2])):
        parameters = rng.choice(list(_all_parameters(data["model"])))
        value = _anything(rng)
        if parameters and rng.random() < 0.9:
            key = rng.choice(sorted(parameters))
        else:
            key = rng.choice(["n_jobs", "memory", "steps", "concepts", "cv", "prior", "device"])
        parameters[key] = value
    return {**files, CONFIG: _dumped(data, rng)}


def _all_parameters(node):
    if isinstance(node, dict):
        if isinstance(node.get("parameters"), dict):
            yield node["parameters"]
        for child in node.values():
            yield from _all_parameters(child)
    elif isinstance(node, list):
        for child in node:
            yield from _all_parameters(child)


def _numbers_of_arrays(files, models, rng):
    arrays = read_arrays(files[ARRAYS])
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(sorted(arrays))
        arrays[name] = array = arrays[name].copy()
        special = [0, -1, 1, 1e-31, 1e-29, 9e29, -9e29, 2e30, 1e200, 1e308, np.nan, np.inf, -np.inf]
        with np.errstate(all="ignore"):
            value = np.array(rng.choice(special)).astype(array.dtype)
            how = rng.choice(["one", "all", "flip", "shuffle", "scale", "sort"])
            flat = array.reshape(-1)
            if not flat.size:
                continue
            if how == "one":
                flat[rng.randrange(flat.size)] = value
            elif how == "all":
                flat[:] = value
            elif how == "flip":
                raw = flat.view(np.uint8)
                raw[rng.randrange(raw.size)] ^= 1 << rng.randrange(8)
            elif how == "shuffle":
                order = list(range(flat.size))
                rng.shuffle(order)
                flat[:] = flat[order]
            elif how == "scale":
                scaled = flat.astype(np.float64) * rng.choice([-1, 1e-12, 1e12, 1e25])
                flat[:] = scaled.astype(flat.dtype)
            else:
                flat.sort()
    return _with_arrays(files, arrays)


def _shapes(files, models, rng):
    """Change which arrays there are, their shapes and dtypes; the manifest follows, mostly."""
    arrays = read_arrays(files[ARRAYS])
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        how = rng.choice(["drop", "name", "shape", "dtype", "swap", "empty", "longer", "graft"])
        if how == "drop":
            del arrays[name]
        elif how == "name":
            wild = rng.choice(["../x", "model.more", name + "x", "model.gate.top_k", "", "a\0b"])
            arrays[wild] = arrays.pop(name)
        elif how == "shape":
            shapes = [(-1,), (1, -1), (-1, 1), array.shape[::-1], (*array.shape, 1)]
            arrays[name] = array.reshape(rng.choice(shapes))
        elif how == "dtype":
            with np.errstate(all="ignore"):
                arrays[name] = array.astype(rng.choice(["float32", "float64", "int64", "bool"]))
        elif how == "swap":
            other = rng.choice(sorted(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
        elif how == "empty":
            arrays[name] = np.zeros(rng.choice([(0,), (0, 2**31), (2**31, 0), ()]), array.dtype)
        elif how == "longer":
            arrays[name] = np.concatenate([array.reshape(-1)] * 2)
        else:
            others = read_arrays(models[rng.choice(sorted(models))][ARRAYS])
            other = rng.choice(sorted(others))
            arrays[rng.choice([name, other])] = others[other]
        if not arrays:
            break
    return _with_arrays(files, arrays, manifest=rng.random() < 0.85)


def _header(files, models, rng):
    """Damage the header of the safetensors file, and let config.json trust the result."""
    header, body = _parts(files[ARRAYS])
    name = rng.choice(sorted(header))
    entry = header[name]
    how = rng.choice(
        ["offsets", "shape", "dtype", "more", "length", "order", "meta", "drop", "raw"]
    )
    lie = None
    if how == "offsets":
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(
            [[end, begin], [0, len(body)], [begin - 8, end - 8], [-8, 0], [2**62, 2**63], [begin],
             ["0", "8"], [begin, end + 8], [begin + 4, end + 4], [True, 8], None]
        )  # fmt: skip
    elif how == "shape":
        entry["shape"] = rng.choice(
            [[2**31, 2**31], [0, 2**40], [-1], [2**62] * 4, [1] * 50, [True], ["3"], [1.0], None]
        )
    elif how == "dtype":
        entry["dtype"] = rng.choice(["F16", "BF16", "O", "object", "<f8", "F64 ", 8, None, "I64"])
    elif how == "more":
        entry["more"] = rng.choice(STRINGS[:10])
    elif how == "length":
        lie = rng.choice([0, 1, 2**63, 2**64 - 1, 2**32, 10**8, len(body), -1])
    elif how == "order":
        names = sorted(header)
        rng.shuffle(names)
        header = {one: header[one] for one in names}
    elif how == "meta":
        header["__metadata__"] = rng.choice([{"a": "b"}, {"a": 1}, [], "x"])
    elif how == "drop":
        del header[name]
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if how == "raw":
        text = rng.choice(
            [
                b"[" * 3000,
                b"{}",
                b"",
                b'{"a":' * 500,
                b"null",
                text + b" " * 9,
                text + text,
                text[1:],
            ]
        )
    length = len(text) if lie is None else (len(text) - 1 if lie == -1 else lie)
    files[ARRAYS] = struct.pack("<Q", length) + text + body
    return _trusted(files)


def _both(files, models, rng):
    files = rng.choice([_numbers_of_arrays, _shapes])(files, models, rng)
    return rng.choice([_values, _numbers])(files, models, rng)


def _mixed(files, models, rng):
    """Put the config of one model beside the arrays of another, and let it trust them."""
    other = models[rng.choice(sorted(models))]
    if rng.random() < 0.5:
        return _trusted({CONFIG: files[CONFIG], ARRAYS: other[ARRAYS]})
    data = json.loads(files[CONFIG])
    theirs = json.loads(other[CONFIG])
    key = rng.choice(["model", "arrays", "arrays_sha256", "library_versions", "notices"])
    data[key] = theirs[key]
    return {**files, CONFIG: _dumped(data, rng)}


def _raw_json(files, models, rng):
    """Write what `json.dumps` cannot: numbers beyond float64, keys twice, other encodings."""
    text = files[CONFIG].decode()
    spots = [m.span(1) for m in re.finditer(r"[:\[,]\s*(-?\d[\d.eE+-]*|true|false|null)", text)]
    start, stop = rng.choice(spots)
    how = rng.choice(["number", "number", "twice", "encoding", "comment", "deep", "escape"])
    if how == "number":
        text = text[:start] + rng.choice(RAW) + text[stop:]
    elif how == "twice":
        text = text.replace("{", '{"format_version": 0, ', 1)
    elif how == "encoding":
        return {**files, CONFIG: text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))}
    elif how == "comment":
        text = rng.choice(
            ["// x\n" + text, text + "x", text + "\0", text.rstrip("}\n"), "'" + text]
        )
    elif how == "deep":
        n = rng.choice([10, 39, 60, 2000, 20_000])
        text = text[:start] + "[" * n + "1" + "]" * n + text[stop:]
    else:
        escape = rng.choice([r"\ud800", r"\udfff\ud800", r"\u0000", r"\x", "\\", "\t"])
        at = rng.choice([m.end() for m in re.finditer('"', text)])
        text = text[:at] + escape + text[at:]
    return {**files, CONFIG: text.encode("utf-8", "surrogatepass")}


KINDS = {
    "bytes of config": _bytes_of_config,
    "bytes of arrays": _bytes_of_arrays,
    "values": _values,
    "numbers": _numbers,
    "names": _names,
    "parameters": _parameters,
    "numbers of arrays": _numbers_of_arrays,
    "shapes": _shapes,
    "header": _header,
    "both": _both,
    "mixed": _mixed,
    "raw json": _raw_json,
}


def _damaged(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not content:
            break
        at = rng.randrange(len(content))
        length = rng.choice([1, 1, 4, 64, 1000])
        how = rng.choice(["flip", "flip", "set", "cut", "insert", "repeat", "end"])
        if how == "flip":
            content[at] ^= 1 << rng.randrange(8)
        elif how == "set":
            content[at] = rng.choice(b'\x00\xff"[]{},:0-9eE\\')
        elif how == "cut":
            del content[at : at + length]
        elif how == "insert":
            content[at:at] = bytes(rng.randrange(256) for _ in range(length))
        elif how == "repeat":
            content[at:at] = content[at : at + length]
        else:
            del content[at:]
    return bytes(content)


def _anything(rng):
    kinds = [STRINGS, NUMBERS, OBJECTS, [None, True, False, [1, 2], ["a", "b"], [[0, 1]] * 3]]
    return deepcopy(rng.choice(rng.choice(kinds)))  # a part that held itself would have no end


def _change_value(data, models, rng):
    parent, key = _a_place(data, rng)
    how = rng.choice(["replace", "replace", "delete", "insert", "swap", "graft", "wrap", "repeat"])
    if how == "replace":
        parent[key] = _anything(rng)
    elif how == "delete":
        del parent[key]
    elif how == "insert":
        value = _anything(rng)
        if isinstance(parent, dict):
            others = ["surprise", "n_jobs", "memory", "steps", "concepts", "self", "sets", "edits"]
            parent[rng.choice([*STRINGS, *others])] = value
        else:
            parent.insert(rng.randrange(len(parent) + 1), value)
    elif how == "swap":
        other, name = _a_place(data, rng)
        parent[key], other[name] = deepcopy(other[name]), deepcopy(parent[key])
    elif how == "graft":
        other, name = _a_place(json.loads(models[rng.choice(sorted(models))][CONFIG]), rng)
        parent[key] = other[name]
    elif how == "wrap":
        parent[key] = rng.choice([[parent[key]], {"a": parent[key]}, {"$tuple": [parent[key]]}])
    elif isinstance(parent, list):
        parent.extend([deepcopy(parent[key])] * rng.choice([1, 3, 1000]))


def _a_place(data, rng, leaf=False):
    """Return a container of the tree and a key in it; a walk down, so that all depths are seen."""
    parent, key = data, "model"
    deep = isinstance(data.get("model"), dict) and data["model"] and rng.random() < 0.8
    node = data["model"] if deep else data
    while isinstance(node, dict | list) and node:
        parent = node
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = node[key]
        if not leaf and rng.random() < 0.2:
            break
    return parent, key


def _a_leaf(data, rng, kind):
    for _ in range(20):
        parent, key = _a_place(data, rng, leaf=True)
        if isinstance(parent[key], kind):
            return parent[key]
    return "x"


def _dumped(data, rng):
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _trusted(files):
    """Return the files with the right hash of the arrays in config.json."""
    digest = hashlib.sha256(files[ARRAYS]).hexdigest().encode()
    config = re.sub(rb'("arrays_sha256": ")[0-9a-f]{64}"', rb"\g<1>" + digest + b'"', files[CONFIG])
    return {**files, CONFIG: config}


def _with_arrays(files, arrays, manifest=True):
    """Return the files with other arrays; with `manifest` config.json lists them."""
    files = {**files, ARRAYS: write_arrays(arrays)}
    if manifest:
        data = json.loads(files[CONFIG])
        data["arrays"] = {
            name: {"shape": list(array.shape), "dtype": array.dtype.name}
            for name, array in arrays.items()
        }
        files[CONFIG] = json.dumps(data).encode()
    return _trusted(files)


def _parts(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def read_arrays(content):
    """Return the arrays of a safetensors file, by hand: no check is wanted here."""
    header, body = _parts(content)
    dtypes = {short: long for long, short in _NAMES.items()}
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def write_arrays(arrays):
    """Return the bytes of a safetensors file, whatever the names and shapes."""
    header, body = {}, b""
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(content)],
        }
        body += content
    text = json.dumps(header).encode()
    text += b" " * (math.ceil(len(text) / 8) * 8 - len(text))
    return struct.pack("<Q", len(text)) + text + body
