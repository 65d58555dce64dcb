"""Images of an .npz file as one array; a large one stays on the disk."""

import hashlib
import os
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from skmoecbm.datasets._download import folder_lock
from skmoecbm.datasets._splits import PARTS
from skmoecbm.exceptions import InputError

__all__ = ["read_labels", "stacked_images"]

_MEMORY = 512 * 2**20  # bytes; a larger array is unpacked into a file once, and mapped
_ROWS = 256


def read_labels(path):
    """Return part -> labels, int array of shape (n_part, n_labels), of a MedMNIST file.

    Raises
    ------
    InputError
        If the file is damaged, or of another kind.
    """
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        needed = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
        if lacking := [name for name in needed if name not in arrays]:
            raise InputError(
                f"{str(path)!r} is no file of MedMNIST: it has no array {lacking[0]!r}. Give the "
                "file as it was downloaded."
            )
        return {part: arrays[f"{part}_labels"].astype(np.int64) for part in PARTS}


@contextmanager
def _readable(path):
    """Say in one sentence what keeps a file from being read."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as an .npz file: {error}. Download it anew."
        ) from error


def stacked_images(path, folder):
    """Return the images of all parts, one after the other, uint8 of shape (n, h, w, 1 | 3).

    Parameters
    ----------
    path : path-like
        With the arrays train_images, val_images and test_images.
    folder : path-like
        Where more than half a gigabyte of images is unpacked to, to be mapped from there.
    """
    with _readable(path), zipfile.ZipFile(path) as archive:
        sizes = [archive.getinfo(f"{part}_images.npy").file_size for part in PARTS]
    if sum(sizes) <= _MEMORY:
        with _readable(path), np.load(path, allow_pickle=False) as arrays:
            images = np.concatenate([arrays[f"{part}_images"] for part in PARTS])
        _check_kind(images.dtype)
        return images[..., None] if images.ndim == 3 else images
    path, status = Path(path), os.stat(path)
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
    unpacked = Path(folder) / f"{path.stem}-{digest}.npy"
    if not unpacked.exists():
        with folder_lock(folder):
            if not unpacked.exists():
                with _readable(path):
                    _unpack(path, unpacked)
    return np.load(unpacked, mmap_mode="r")


def _unpack(path, target):
    """Write the images of all parts into one .npy file, a few rows at a time."""
    part_file = target.with_name(target.name + ".part")
    with zipfile.ZipFile(path) as archive:
        shapes = []
        for part in PARTS:
            with archive.open(f"{part}_images.npy") as stream:
                shapes.append(_header(stream))
        shape = (sum(one[0] for one in shapes), *shapes[0][1:])
        shape = (*shape, 1) if len(shape) == 3 else shape
        out = np.lib.format.open_memmap(part_file, mode="w+", dtype=np.uint8, shape=shape)
        row = 0
        for part, (n, *inner) in zip(PARTS, shapes, strict=True):
            with archive.open(f"{part}_images.npy") as stream:
                _header(stream)
                for start in range(0, n, _ROWS):
                    k = min(_ROWS, n - start)
                    pixels = np.frombuffer(stream.read(k * int(np.prod(inner))), dtype=np.uint8)
                    out[row : row + k] = pixels.reshape(k, *shape[1:])
                    row += k
        out.flush()
        del out
    os.replace(part_file, target)


def _header(stream):
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran_order, dtype = read[version](stream)
    _check_kind(dtype, fortran_order)
    return shape


def _check_kind(dtype, fortran_order=False):
    if fortran_order or dtype != np.uint8:
        raise InputError(
            f"Images of MedMNIST are uint8 in C order, not {dtype}. Get the file anew."
        )
