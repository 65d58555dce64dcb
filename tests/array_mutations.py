"""Damage to the arrays of saved models, and their files read and written without any check."""

import hashlib
import json
import math
import re
import struct

import numpy as np

from tests.hostile_values import STRINGS

__all__ = [
    "ARRAYS",
    "CONFIG",
    "damage_header",
    "damage_numbers",
    "damage_shapes",
    "read_arrays",
    "trusted",
    "with_arrays",
    "write_arrays",
]

CONFIG, ARRAYS = "config.json", "model.safetensors"
_NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "bool": "BOOL", "uint8": "U8"}


def damage_numbers(files, models, rng):
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
    return with_arrays(files, arrays)


def damage_shapes(files, models, rng):
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
    return with_arrays(files, arrays, manifest=rng.random() < 0.85)


def damage_header(files, models, rng):
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
    return trusted(files)


def trusted(files):
    """Return the files with the right hash of the arrays in config.json."""
    digest = hashlib.sha256(files[ARRAYS]).hexdigest().encode()
    config = re.sub(rb'("arrays_sha256": ")[0-9a-f]{64}"', rb"\g<1>" + digest + b'"', files[CONFIG])
    return {**files, CONFIG: config}


def with_arrays(files, arrays, manifest=True):
    """Return the files with other arrays; with `manifest` config.json lists them."""
    files = {**files, ARRAYS: write_arrays(arrays)}
    if manifest:
        data = json.loads(files[CONFIG])
        data["arrays"] = {
            name: {"shape": list(array.shape), "dtype": array.dtype.name}
            for name, array in arrays.items()
        }
        files[CONFIG] = json.dumps(data).encode()
    return trusted(files)


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
