"""The arrays of a saved model, each known by its header and read only once its shape is agreed."""

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np

from skmoecbm._config_bytes import read_object
from skmoecbm._model_folder import ARRAYS, open_file
from skmoecbm.exceptions import FormatError

__all__ = ["StoredArray", "stored_arrays"]

_MAX_ARRAYS_BYTES = 4 * 2**30
# Of at most 10,000 arrays; the library itself would parse up to 100 MB.
_MAX_HEADER = {"max_bytes": 4 * 2**20, "max_values": 120_000, "max_depth": 3}
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool", "U8": "uint8"}
_CHUNK = 2**20
_AGAIN = "fetch or save the model again."


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array that is still in its file; `numpy.asarray` reads it.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    file : binary file
    start : int
        Where its bytes begin.
    """

    shape: tuple
    dtype: np.dtype
    file: object
    start: int

    def __array__(self, dtype=None, copy=None):
        """Read the array; each call reads it anew."""
        array = np.empty(self.shape, dtype=self.dtype.newbyteorder("<"))
        self.file.seek(self.start)
        view = memoryview(array.reshape(-1).view(np.uint8))
        if self.file.readinto(view) != array.nbytes:
            raise FormatError(f"{ARRAYS} changed while it was read; load the model again.")
        if self.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
            raise FormatError(f"{ARRAYS} has truth values other than 0 and 1; {_AGAIN}")
        return array.astype(dtype or self.dtype, copy=False)


@contextmanager
def stored_arrays(folder, config):
    """Yield the arrays of a folder, name -> `StoredArray`, each as the manifest in `config` says.

    Raises
    ------
    FormatError
        If the file is not the one that was saved with the config, or not a safetensors file.
    """
    path = folder / ARRAYS
    with open_file(folder, ARRAYS, _MAX_ARRAYS_BYTES) as (file, size):
        if _sha256(file) != config.arrays_sha256:
            raise FormatError(
                f"'{path}' is not the file that config.json was saved with (cut short, damaged or "
                "replaced). Fetch or save the model again."
            )
        header, start = _read_header(file, size, path)
        _check_manifest(header, config.arrays, path)
        _check_places(header, config.arrays, size - start, path)
        yield {
            name: StoredArray(
                entry.shape,
                np.dtype(entry.dtype),
                file,
                start + header[name]["data_offsets"][0],
            )
            for name, entry in config.arrays.items()
        }


def _sha256(file):
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _read_header(file, size, path):
    """Return the header, name -> dtype, shape and place, and where the numbers begin."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER["max_bytes"]):
        raise FormatError(f"'{path}' is not a safetensors file: it has no whole header; {_AGAIN}")
    what = f"'{path}' is not a safetensors file: its header"
    return read_object(file.read(length), what, **_MAX_HEADER), 8 + length


def _check_manifest(header, wanted, path):
    """Raise unless the header has the arrays that config.json lists, each as it says."""
    for name, entry in wanted.items():
        got = "nothing"
        if name in header:
            shape, dtype = _shape_and_dtype(header[name], path)
            if (shape, dtype) == (entry.shape, entry.dtype):
                continue
            got = f"{dtype} of shape {shape}"
        raise FormatError(
            f"'{path}' must have an array {name!r} of {entry.dtype} and shape {entry.shape}. "
            f"Got {got}; {_AGAIN}"
        )
    extra = sorted(set(header) - set(wanted))
    if extra:
        raise FormatError(
            f"'{path}' has an array {extra[0]!r:.200} that config.json does not list; {_AGAIN}"
        )


def _shape_and_dtype(found, path):
    match found:
        case {
            "dtype": str(dtype),
            "shape": [*shape],
            "data_offsets": [int(), int()],
            **others,
        } if not others and all(type(size) is int for size in shape) and len(shape) <= 8:
            return tuple(shape), _DTYPES.get(dtype, dtype[:20])
    raise FormatError(f"'{path}' is not a safetensors file: {found!r:.80} in its header; {_AGAIN}")


def _check_places(header, wanted, n_bytes, path):
    """Raise unless the arrays lie one behind the other and fill the file to its end."""
    end = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        begin, stop = header[name]["data_offsets"]
        length = prod(wanted[name].shape) * np.dtype(wanted[name].dtype).itemsize
        if (begin, stop) != (end, end + length):
            raise FormatError(
                f"'{path}' is not a safetensors file: the array {name!r} lies at bytes {begin} to "
                f"{stop}, where {end} to {end + length} were expected; {_AGAIN}"
            )
        end = stop
    if end != n_bytes:
        raise FormatError(
            f"'{path}' is not a safetensors file: its arrays have {end} bytes, and {n_bytes} are "
            f"there; {_AGAIN}"
        )
