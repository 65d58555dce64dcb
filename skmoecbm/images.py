"""Everything that can be an image becomes an RGB `PIL.Image`, lazily, one at a time."""

import hashlib
import os
import warnings
from contextlib import closing

import numpy as np
import torch
from PIL import Image

from skmoecbm._ahead import ahead, n_decoders
from skmoecbm._decoding import (
    Unreadable,
    check_array,
    check_value_range,
    decode,
    describe,
    file_identity,
    load_pixels,
    orientation_of,
    to_numpy,
)
from skmoecbm._dicom_frame import DicomFrame
from skmoecbm._validation import check_choice, is_dicom_dataset
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = [
    "DicomFrame",
    "as_image_list",
    "image_key",
    "image_keys",
    "iter_images",
    "load_image",
    "warn_missing",
]

# Part of every key: raise it when the same bytes would give other pixels than before.
_DECODING_VERSION = b"skmoecbm-img-1"


def as_image_list(X):
    """Return the images in `X` as a list, one entry per row, without opening any.

    Parameters
    ----------
    X : sequence of images
        A list, tuple, 1-D array, pandas Series, DataFrame or 2-D object array with one column;
        or a stack: an array of shape (n, height, width, 1 | 3 | 4) or a torch tensor of shape
        (n, 1 | 3 | 4, height, width). See `load_image` for what an image may be.

    Returns
    -------
    images : list of length n
        What was given, unopened; missing values (None, NaN, `pandas.NA`) are None.

    Raises
    ------
    InputError
        If `X` is one image instead of a sequence of them, is empty, or has another shape.

    Examples
    --------
    >>> from skmoecbm.images import as_image_list
    >>> as_image_list(("a.png", None, float("nan")))
    ['a.png', None, None]
    """
    if is_dicom_dataset(X):
        raise InputError(
            f"Expected a sequence of images, got the single {describe(X)}. Give its path or its "
            "bytes, in a list: [path]."
        )
    if isinstance(X, str | bytes | os.PathLike | Image.Image | DicomFrame) or hasattr(X, "read"):
        raise InputError(
            f"Expected a sequence of images, got the single image {describe(X)}. "
            "Wrap it in a list: [image]. A folder is listed with sorted(pathlib.Path(folder)"
            ".glob('*.jpg'))."
        )
    if hasattr(X, "iloc"):  # pandas, which is not imported for the sake of a test on types
        if hasattr(X, "columns"):
            if X.shape[1] != 1:
                raise InputError(
                    f"Expected one column of images, got a DataFrame with {X.shape[1]} columns: "
                    f"{list(X.columns)[:10]}. Choose one, such as X['image_path']."
                )
            X = X.iloc[:, 0]
        images = [None if absent else image for image, absent in zip(X, X.isna(), strict=True)]
    elif isinstance(X, np.ndarray | torch.Tensor):
        images = _rows_of_array(X)
    elif isinstance(X, list | tuple):
        images = list(X)
    else:
        raise InputError(
            "Expected images as a list, tuple, array, tensor, Series or DataFrame with one "
            f"column, got {type(X).__name__}. Make it a list: list(images)."
        )
    if not images:
        raise InputError("Found 0 images (shape (0,)) while a minimum of 1 is required.")
    return [None if isinstance(image, float) and np.isnan(image) else image for image in images]


def _rows_of_array(X):
    is_tensor = isinstance(X, torch.Tensor)
    shape = tuple(X.shape)
    if X.ndim == 4 and (is_tensor or X.dtype != object):
        return list(X)
    if not is_tensor and X.dtype.kind in "OUS":
        if X.ndim == 1 or (X.ndim == 2 and shape[1] == 1):
            # item by item: tolist() would also unpack arrays inside an object array
            return [str(image) if X.dtype.kind == "U" else image for image in X.reshape(-1)]
    layout = "(n, 1 | 3 | 4, height, width)" if is_tensor else "(n, height, width, 1 | 3 | 4)"
    known = str(X.dtype).removeprefix("torch.") == "uint8" or (
        not is_tensor and X.dtype.kind not in "buif"
    )
    raise InputError(
        f"Expected a 1-D array of paths or images, or a stack of shape {layout}, got "
        f"{'a tensor' if is_tensor else 'an array'} of shape {shape} and dtype {X.dtype}. "
        "Wrap a single image in a list: [image]; give n grey images as list(X)"
        f"{'' if known else ', with value_range=(low, high), their black and white'}."
    )


def load_image(image, *, value_range=None, draft_size=None):
    """Return one image as an RGB `PIL.Image` of 8 bits per channel.

    Turned upright by its EXIF orientation; transparency is laid over white; of an animated file
    the first frame is taken; colour profiles are not applied.

    Parameters
    ----------
    image : path, bytes, binary file object, DicomFrame, PIL image, array or tensor
        Files: PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, PPM, AVIF, ICO, and DICOM with the
        package pydicom: first frame and window, unless `DicomFrame` names others. Arrays have shape
        (height, width) or (height, width, 1 | 3 | 4), torch tensors (height, width) or
        (1 | 3 | 4, height, width); four channels are RGBA. Values are uint8 in [0, 255], or any
        other real type with `value_range`.
    value_range : (low, high), default=None
        The values shown as black and white, for arrays, tensors and files that are not 8-bit
        (linear between, clipped outside). Nothing is guessed: there it must be given.
        8-bit images do not use it. Of a grey DICOM film it takes the place of the window, in the
        units of the film after rescaling (Hounsfield units for CT).
    draft_size : int, default=None
        Let the JPEG decoder halve the picture while both sides stay at or above this many pixels:
        3 to 4 times faster on a photograph of 1800 × 1350. The encoders leave it off, since it can
        move an embedding by more than 1e-3: on 105 dermatoscopic images, re-encoded at 1 to 5.3
        times their size and three qualities, seen by the demo experts (64 pixels) through a
        picture of r times their side, the cosine moved by up to 3.8e-3 for r from 3 to 6, and by
        up to 1.1e-3 for r from 7 to 19. It is not part of the key: use one value throughout.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", a new image.

    Raises
    ------
    InputError
        If the image is missing, damaged, no image at all, of a shape or type not listed above,
        or needs `value_range`.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.images import load_image
    >>> grey = np.array([[0.0, 0.5, 1.0]])
    >>> load_image(grey, value_range=(0, 1)).getpixel((1, 0))
    (128, 128, 128)
    """
    value_range = check_value_range(value_range)
    try:
        return decode(image, value_range, draft_size)
    except InputError as error:
        raise type(error)(f"image {describe(image)} cannot be read: {error}") from error


def iter_images(
    images,
    *,
    value_range=None,
    on_error="raise",
    draft_size=None,
    rows=None,
    failures=None,
    n_threads=0,
    n_waiting=64,
    shape=None,
):
    """Yield each image as RGB `PIL.Image`, opened when it is asked for or a little before.

    Parameters
    ----------
    images : sequence of images
        What `as_image_list` returns.
    value_range, draft_size
        As in `load_image`.
    on_error : {"raise", "missing"}, default="raise"
        `"missing"` yields None for an image that is None, absent or damaged, and warns once, at
        the end, with the count. Mistakes in the call, such as a `value_range` that is needed and
        not given, raise all the same.
    rows : sequence of int, default=None
        Row numbers for messages, counted from 0, where `images` is a part of a longer list.
    failures : list, default=None
        If given, (row, reason) of each missing image is appended and no warning is given.
    n_threads : int, default=0
        Threads that open the next images while one is worked on; 0 opens each when it is asked
        for. Open file objects, and PIL images still in theirs, are always read in the caller's
        thread: two may share one file.
    n_waiting : int, default=64
        Most images that are open, or being opened, and not asked for yet.
    shape : callable, default=None
        From `PIL.Image` to `PIL.Image`, applied to each image in its thread, such as
        `Backbone.shape`, which leaves the pixels that a model sees.

    Yields
    ------
    PIL.Image.Image or None

    Raises
    ------
    InputError
        Names the row and the file, with `on_error="raise"`.

    Notes
    -----
    Errors come in the order of the rows, whatever thread met them first. With threads, close the
    generator (`contextlib.closing`) where the loop over it may be left early.
    """
    check_choice("iter_images", "on_error", on_error, ("raise", "missing"))
    value_range = check_value_range(value_range)

    def load(image):
        image = decode(image, value_range, draft_size)
        return image if shape is None else shape(image)

    return _each(load, images, on_error, rows, failures, n_threads, n_waiting)


def image_keys(images, *, value_range=None, on_error="raise", rows=None, failures=None):
    """Return `image_key` of each image, or None where it is missing.

    An image whose file is there but damaged has a key; it fails when it is opened.

    Parameters
    ----------
    images, value_range, on_error, rows, failures
        As in `iter_images`, whose errors they raise.

    Returns
    -------
    list of str or None
    """
    check_choice("image_keys", "on_error", on_error, ("raise", "missing"))
    value_range = check_value_range(value_range)
    n_threads = n_decoders()  # reading files waits, and hashing lets go of Python's lock
    return list(
        _each(
            lambda image: _key(image, value_range),
            images,
            on_error,
            rows,
            failures,
            n_threads,
            n_waiting=8 * n_threads,
        )
    )


def warn_missing(failures):
    """Warn once that images could not be read.

    Parameters
    ----------
    failures : list of (row, reason)
        Without any there is no warning.
    """
    if failures:
        row, reason = failures[0]
        warnings.warn(
            f"{len(failures):,} image(s) cannot be read and count as missing; the first: "
            f"image {row:,} {reason}",
            SkmoecbmWarning,
            stacklevel=3,
        )


def _each(function, images, on_error, rows, failures, n_threads=0, n_waiting=1):
    """Apply `function` lazily; add row and name to its errors, forgive what may be missing."""
    own_failures = [] if failures is None else failures

    def attempt(image):
        try:
            return function(image), None
        except InputError as error:  # told in the order of the rows
            return None, error

    with closing(ahead(attempt, images, n_threads, n_waiting, _stays_here)) as attempts:
        for position, (result, error) in enumerate(attempts):
            row = int(position if rows is None else rows[position])
            if error is None:
                yield result
                continue
            reason = f"({describe(images[position])}) cannot be read: {error}"
            if not isinstance(error, Unreadable):
                raise InputError(f"image {row:,} {reason}") from error
            if on_error == "raise":
                raise InputError(
                    f"image {row:,} {reason} Remove it, or pass on_error='missing'."
                ) from error
            own_failures.append((row, reason))
            yield None
    if failures is None:
        warn_missing(own_failures)


def _stays_here(image):
    """Return whether an image reads from an open file, which other images may read from too."""
    if isinstance(image, Image.Image):
        orientation_of(image)  # Pillow reads it once, and not safely when two threads ask first
        return getattr(image, "fp", None) is not None
    return hasattr(image.file if isinstance(image, DicomFrame) else image, "read")


def image_key(image, value_range=None):
    """Return a hash that names the content of an image, without decoding files.

    A file, its bytes and an open file object give the same key, and so does a DICOM file before
    and after it was de-identified: there only what decides the pixels is hashed. Arrays, tensors
    and PIL images are known by their pixels, shape and type. `value_range` is part of the key.

    Parameters
    ----------
    image, value_range
        As in `load_image`. A file object is read from its start and left where it was.

    Returns
    -------
    str
        32 hexadecimal digits (BLAKE2b, 128 bits).

    Raises
    ------
    InputError
        If the image is missing, its file cannot be read or is empty.

    Examples
    --------
    >>> import io
    >>> from skmoecbm.images import image_key
    >>> image_key(b"content") == image_key(io.BytesIO(b"content"))
    True
    """
    value_range = check_value_range(value_range)
    try:
        return _key(image, value_range)
    except InputError as error:
        raise type(error)(f"image {describe(image)} cannot be read: {error}") from error


def _key(image, value_range):
    if isinstance(image, Image.Image):
        # all that the conversion to RGB depends on besides the pixels
        meta = ("pil", image.mode, image.size, image.getpalette("RGBA"), orientation_of(image))
        meta += (image.info.get("transparency"),)
        content = load_pixels(image).tobytes()
    elif isinstance(image, np.ndarray | torch.Tensor):
        kind = "tensor" if isinstance(image, torch.Tensor) else "array"
        array = to_numpy(image)
        if array.dtype.kind not in "buif":
            check_array(array, kind)
        meta, content = (kind, array.shape, array.dtype.str), np.ascontiguousarray(array)
    else:
        meta, content = file_identity(image)
    digest = hashlib.blake2b(content, digest_size=16, person=_DECODING_VERSION)
    digest.update(repr((meta, value_range)).encode())
    return digest.hexdigest()
