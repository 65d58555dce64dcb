"""Damage to saved models, from one wrong byte to a hostile author, drawn from a `random.Random`."""

import json
import re
from copy import deepcopy

from tests.array_mutations import (
    ARRAYS,
    CONFIG,
    damage_header,
    damage_numbers,
    damage_shapes,
    read_arrays,
    trusted,
    with_arrays,
    write_arrays,
)
from tests.hostile_values import NUMBERS, OBJECTS, RAW, STRINGS

__all__ = ["ARRAYS", "CONFIG", "KINDS", "mutated", "read_arrays", "with_arrays", "write_arrays"]


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
    return files if rng.random() < 0.3 else trusted(files)


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


def _both(files, models, rng):
    files = rng.choice([damage_numbers, damage_shapes])(files, models, rng)
    return rng.choice([_values, _numbers])(files, models, rng)


def _mixed(files, models, rng):
    """Put the config of one model beside the arrays of another, and let it trust them."""
    other = models[rng.choice(sorted(models))]
    if rng.random() < 0.5:
        return trusted({CONFIG: files[CONFIG], ARRAYS: other[ARRAYS]})
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
    "numbers of arrays": damage_numbers,
    "shapes": damage_shapes,
    "header": damage_header,
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
