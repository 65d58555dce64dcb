"""From the bytes of a JSON file to its values, bounded before anything is made of them."""

import json
import math
import re

import numpy as np

from skmoecbm.exceptions import FormatError

__all__ = ["read_object"]

# A concept of a bank is about 250 bytes and 13 values, so that a bank of 50,000 concepts (the size
# of ImageNet's) is 12.6 MB and 0.65 million values: there is room for two of them with the names
# of their columns. A model of HAM10000 has 0.3 MB. What is refused within these bounds takes
# a second and 300 MB; a bank of 150,000 concepts loads in 2.3 s and 120 MB.
_MAX_BYTES = 48 * 2**20
_MAX_VALUES = 1_500_000
_MAX_OBJECTS = 150_000  # a concept is one; made, it has over a kilobyte
_MAX_DEPTH = 40  # nested lists and objects
_MAX_KEYS = 100_000  # of one object
_MAX_DIGITS = 20  # 2**64 has as many

_SURROGATES = re.compile(r"\\u[dD][89a-bA-B]")
# How much deeper each byte leads; commas count values and lead nowhere.
_STEP = np.zeros(256, dtype=np.int32)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_IS_STRUCTURE = np.zeros(256, dtype=bool)
_IS_STRUCTURE[list(b"[]{},")] = True


def read_object(
    text,
    what,
    *,
    max_bytes=_MAX_BYTES,
    max_values=_MAX_VALUES,
    max_objects=_MAX_OBJECTS,
    max_depth=_MAX_DEPTH,
):
    """Return the object that a JSON text holds: a dict of plain values.

    Numbers are finite, integers have at most 20 digits, every string can be written as UTF-8, and
    no key is there twice.

    Parameters
    ----------
    text : str or bytes
        UTF-8.
    what : str
        What the text is, for messages.
    max_bytes, max_values, max_objects, max_depth : int
        Checked before the text is parsed: "[{},{},..." costs sixty times its length.

    Raises
    ------
    FormatError
        If it is no such object, or larger.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(content) > max_bytes:
        raise FormatError(f"{what} is larger than {max_bytes / 2**20:.0f} MB; it is not loaded.")
    _check_size(content, what, max_values, max_objects, max_depth)
    try:
        text = content.decode("utf-8")
        data = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_unique_keys,
        )
        if _SURROGATES.search(text):  # halves of a pair are no text: they could not be saved again
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "half a surrogate pair" if isinstance(error, UnicodeEncodeError) else error
        raise FormatError(
            f"{what} is not valid JSON ({reason}); the file is damaged, fetch or save it again."
        ) from None
    if not isinstance(data, dict):
        raise FormatError(
            f"{what} must hold a JSON object. Got {type(data).__name__}; the file is damaged, "
            "fetch or save it again."
        )
    return data


def _check_size(content, what, max_values, max_objects, max_depth):
    """Count values and depth by the brackets and commas outside of strings; see `read_object`."""
    # Without escapes every quote opens or closes a string.
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(plain, dtype=np.uint8)
    is_outside = ~np.logical_xor.accumulate(marks == ord('"'))
    marks = marks[is_outside & _IS_STRUCTURE[marks]]
    n_values = np.isin(marks, list(b",[{")).sum()
    n_objects = (marks == ord("{")).sum()
    for n, kind, most in (
        (n_values, "values", max_values),
        (n_objects, "objects", max_objects),
    ):
        if n > most:
            raise FormatError(
                f"{what} has {n:,} {kind}; a file of more than {most:,} is not loaded."
            )
    depth = int(np.cumsum(_STEP[marks]).max(initial=0))
    if depth > max_depth:
        raise FormatError(f"{what} is nested {depth} deep; at most {max_depth} is allowed.")


def _no_constant(name):
    raise ValueError(f"{name} is not a JSON number")


def _finite(text):
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is beyond float64")
    return value


def _short(text):
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"an integer has more than {_MAX_DIGITS} digits")
    return int(text)


def _unique_keys(pairs):
    if len(pairs) > _MAX_KEYS:
        raise ValueError(f"an object has more than {_MAX_KEYS:,} keys")
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key is there twice")
    return data
