"""Arrays of a saved model, taken out one by one and checked: shape, dtype, numbers."""

import numpy as np

from skmoecbm._ranges import LEVELS
from skmoecbm.exceptions import FormatError

__all__ = ["take", "take_quantiles"]

_LARGEST = 1e30


def take(arrays, name, shape, dtype, *, positive=False):
    """Take an array out, checked: shape and dtype before it is read, then its numbers.

    Beyond 1e30, or with `positive` below 1e-30, they belong to no model: products of a few of them
    would leave float64, and probabilities be NaN.
    """
    if name not in arrays:
        raise FormatError(
            f"The model needs an array {name!r}, which is not there. Fetch or save it again."
        )
    array = arrays.pop(name)
    if array.shape != shape or array.dtype != dtype:
        raise FormatError(
            f"The array {name!r} must be {dtype} of shape {shape}. Got {array.dtype} of shape "
            f"{array.shape}; fetch or save the model again."
        )
    array = np.asarray(array)  # only now read from its file
    if array.dtype.kind == "f":
        low, high = array.min(initial=0.0), array.max(initial=0.0)
        if not (low >= -_LARGEST and high <= _LARGEST):
            raise FormatError(
                f"The array {name!r} has numbers that are not finite, or beyond {_LARGEST:g}; save "
                "the model again."
            )
    if positive and not array.min(initial=1.0) >= 1.0 / _LARGEST:
        raise FormatError(f"The array {name!r} must be positive; save the model again.")
    return array


def take_quantiles(arrays, prefix, m, gaps=False):
    """Take the quantiles of m concepts out; with `gaps` a concept without a value has none."""
    name = f"{prefix}.concept_quantiles"
    stored = arrays[name]
    dtype = "float32" if stored.dtype == np.float32 else "float64"
    if gaps and (stored.shape, stored.dtype.name) == ((m, len(LEVELS)), dtype):
        stored = np.asarray(stored)
        empty = np.isnan(stored)
        arrays[name] = np.where(empty, stored.dtype.type(0), stored)
    found = take(arrays, name, (m, len(LEVELS)), dtype)
    if (np.diff(found, axis=1) < 0).any():
        raise FormatError(f"{name} must not fall; save the model again.")
    return np.where(empty, found.dtype.type(np.nan), found) if gaps else found
