"""From the files of a saved model back to arrays and a fitted model, every step checked."""

import hashlib

import numpy as np
import safetensors

from skmoecbm._model_folder import ARRAYS, read_bytes, read_config_bytes
from skmoecbm._packing import unpack
from skmoecbm.exceptions import FormatError
from skmoecbm.schema import parse_config

__all__ = ["read_folder_config", "read_model"]

_MAX_ARRAYS_BYTES = 4 * 2**30
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool"}


def read_folder_config(folder):
    """Return the checked `ModelConfig` of a folder."""
    return parse_config(read_config_bytes(folder))


def read_model(folder):
    """Return the fitted model of a folder."""
    config = read_folder_config(folder)
    arrays = _read_arrays(folder, config)
    model = unpack(config.model, arrays)
    if arrays:
        raise FormatError(
            f"'{folder / ARRAYS}' has an array {min(arrays)!r} that its model does not use; the "
            "file is damaged, fetch or save it again."
        )
    return model


def _read_arrays(folder, config):
    """Return the arrays, each as the manifest says."""
    path = folder / ARRAYS
    content = read_bytes(folder, ARRAYS, _MAX_ARRAYS_BYTES)
    if hashlib.sha256(content).hexdigest() != config.arrays_sha256:
        raise FormatError(
            f"'{path}' is not the file that config.json was saved with (cut short, damaged or "
            "replaced). Fetch or save the model again."
        )
    try:
        found = {name: entry for name, entry in safetensors.deserialize(content)}
    except safetensors.SafetensorError as error:
        raise FormatError(f"'{path}' is not a safetensors file: {error}.") from None
    for name, entry in config.arrays.items():
        is_there = name in found
        shape, dtype = (
            (tuple(found[name]["shape"]), _DTYPES.get(found[name]["dtype"]))
            if is_there
            else (None, None)
        )
        if (shape, dtype) != (entry.shape, entry.dtype):
            got = f"{dtype} of shape {shape}" if is_there else "nothing"
            raise FormatError(
                f"'{path}' must have an array {name!r} of {entry.dtype} and shape {entry.shape}. "
                f"Got {got}; fetch or save the model again."
            )
    extra = sorted(set(found) - set(config.arrays))
    if extra:
        raise FormatError(
            f"'{path}' has an array {extra[0]!r} that config.json does not list; fetch or save "
            "the model again."
        )
    return {
        name: np.frombuffer(entry["data"], dtype=config.arrays[name].dtype)
        .reshape(entry["shape"])
        .copy()
        for name, entry in found.items()
    }
