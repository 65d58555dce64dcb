"""Reading concept files, and telling what is wrong with one in plain sentences."""

import difflib
import json
from pathlib import Path

import numpy as np

from skmoecbm.exceptions import FormatError, InputError

__all__ = ["class_key", "folded", "meant", "read_json", "sentences"]


def class_key(label):
    """Return the key of a class that is called by a label: a str; 3.0 is 3."""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        label = int(label)
    return str(label)


def folded(spelling):
    """Return how a spelling or label is compared: trimmed, lower-case; 3.0 is 3."""
    return class_key(spelling).strip().lower()


def meant(word, known):
    """Return " Did you mean ...?" where one of the known words is near, else ""."""
    near = difflib.get_close_matches(str(word).lower(), [str(one) for one in known], 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def read_json(path):
    """Return what a JSON file holds; a key that is there twice is an error."""

    def unique(pairs):
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise FormatError(f"'{path}' has the key {twice!r} twice; join the two.")
        return dict(pairs)

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"'{path}' is not JSON in UTF-8: {error}.") from error


def sentences(error):
    """Return pydantic's findings, at most three, as sentences."""
    findings = error.errors()
    inner = {one["loc"][0] for one in findings if len(one["loc"]) > 1}
    # a list with a bad entry is also reported as too short: noise
    findings = [f for f in findings if f["type"] != "too_short" or f["loc"][0] not in inner]
    told = []
    for one in findings[:3]:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in one["loc"]).lstrip(".")
        if one["type"] == "extra_forbidden":
            told.append(f"{where} is not a known field; mend its spelling or remove it.")
        elif one["type"] == "missing":
            told.append(f"{where} is missing.")
        elif where == "format_version":
            told.append(
                f"format_version must be 1, got {one['input']!r}; update skmoecbm to read it."
            )
        elif one["type"] in ("string_too_short", "too_short"):
            told.append(f"{where} is empty; fill it or remove it.")
        elif one["type"] == "value_error":
            message = str(one["ctx"]["error"])
            told.append(message[0].upper() + message[1:] + ".")
        else:
            told.append(f"{where}: {one['msg']}; got {one['input']!r:.60}.")
    more = len(findings) - len(told)
    return " ".join(told) + (f" And {more} more." if more else "")
