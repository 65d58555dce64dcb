"""From bytes, pixels or a PIL image to 8-bit RGB: what `images.py` stands on."""

import io
import os
import stat

import numpy as np
import torch
from PIL import Image, ImageOps

from skmoecbm._dicom import dicom_identity, dicom_picture, dicom_size, is_dicom
from skmoecbm._dicom_frame import DicomFrame
from skmoecbm._validation import is_dicom_dataset, parameter_error
from skmoecbm.exceptions import InputError, Unreadable

__all__ = [
    "Unreadable",
    "check_array",
    "check_value_range",
    "decode",
    "describe",
    "file_bytes",
    "file_identity",
    "load_pixels",
    "n_pixels",
    "orientation_of",
    "to_numpy",
]

# Raster formats only: Pillow's EPS reader starts Ghostscript, its WMF reader asks the operating
# system, and formats without a magic number (TGA, PCD) claim text files.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "MPO", "JPEG2000", "PPM", "AVIF", "ICO")

_DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")

_RANGE_REMEDY = (
    "Pass value_range=(low, high), the values that become black and white: "
    "(0.0, 1.0) for normalised floats, (0, 65535) for full 16-bit, (-1000, 400) for a CT window."
)


def decode(image, value_range, draft_size):
    """Return any image as a new 8-bit RGB one; the errors do not name it yet."""
    if isinstance(image, np.ndarray | torch.Tensor):
        return _from_array(image, value_range)
    if isinstance(image, DicomFrame):
        return dicom_picture(file_bytes(image), value_range, image.frame, image.window)
    if not isinstance(image, Image.Image):
        content = file_bytes(image)
        if is_dicom(content):
            return dicom_picture(content, value_range)
        image = _open(content)
        if draft_size is not None and image.format in ("JPEG", "MPO"):
            image.draft(image.mode, (draft_size, draft_size))
        _check_deep_colour(image, value_range)
    return _to_rgb(load_pixels(image), value_range)


def file_bytes(image):
    """Return the whole content of a path, bytes, file object or `DicomFrame`."""
    if isinstance(image, DicomFrame):
        image = image.file
    if image is None:
        raise Unreadable("it is None.")
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
    elif isinstance(image, str | os.PathLike):
        content = _path_bytes(image)
    elif hasattr(image, "read"):
        try:
            position = image.tell()
            image.seek(0)
            content = image.read()
            image.seek(position)
        except (AttributeError, OSError, ValueError) as error:  # pipes and sockets; closed files
            raise Unreadable(
                f"the file object cannot be read and rewound ({error}). Pass its bytes instead."
            ) from error
        if not isinstance(content, bytes):
            raise InputError("the file object is in text mode. Open it with mode 'rb'.")
    else:
        remedy = " Give its path or its bytes." if is_dicom_dataset(image) else ""
        raise InputError(
            "expected a path, bytes, binary file object, DicomFrame, PIL image, array or tensor, "
            f"got {type(image).__name__}.{remedy}"
        )
    if not content:
        raise Unreadable("it is empty (0 bytes).")
    return content


def file_identity(image):
    """Return what a file is known by besides its kind, and the bytes that it is known by."""
    content = file_bytes(image)
    if isinstance(image, DicomFrame):
        return dicom_identity(content, image.frame, image.window)
    return dicom_identity(content) if is_dicom(content) else (("file",), content)


def _path_bytes(path):
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise Unreadable("it is a directory. Pass the files in it one by one.")
        if not stat.S_ISREG(mode):  # a pipe or device may never end
            raise Unreadable("it is not a regular file.")
        with open(path, "rb") as file:
            return file.read()
    except Unreadable:  # a ValueError too
        raise
    except FileNotFoundError as error:
        remedy = "Download it first." if "://" in os.fspath(path) else f"Looked in {os.getcwd()}."
        raise Unreadable(f"there is no such file. {remedy}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise Unreadable(f"{getattr(error, 'strerror', None) or error}.") from error


def _open(content):
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # AVIF is optional in Pillow
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except Image.UnidentifiedImageError as error:
        raise Unreadable(f"its {len(content):,} bytes are no known image format.") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(
            f"{error} If it is meant, raise PIL.Image.MAX_IMAGE_PIXELS first."
        ) from error
    except Exception as error:  # damaged headers raise anything: struct.error, KeyError, EOFError
        raise Unreadable(f"its header is damaged ({type(error).__name__}: {error}).") from error


def n_pixels(image):
    """Return how many pixels the header of a file states, undecoded; None where there is none."""
    try:
        content = file_bytes(image)
        dicom = isinstance(image, DicomFrame) or is_dicom(content)
        width, height = dicom_size(content) if dicom else _open(content).size
    except Unreadable:
        return None
    return width * height


def load_pixels(image):
    """Read the pixels of a PIL image that may still be in its file; return the image."""
    try:
        image.load()
    except Exception as error:  # as above, for the pixels
        raise Unreadable(
            f"it is damaged or cut short ({type(error).__name__}: {error})."
        ) from error
    return image


def orientation_of(image):
    """Return the EXIF orientation of a PIL image, 1 to 8; 1 is upright, or none stated."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block must not cost the picture: it then has no orientation
        return 1


def _check_deep_colour(image, value_range):
    """Refuse 16-bit colour files unless the range asked for is the one Pillow decodes."""
    deep = False
    if image.mode in ("RGB", "RGBA", "LA", "CMYK"):
        if image.format == "PNG":
            deep = any(";16" in str(tile.args) for tile in image.tile)
        elif image.format == "TIFF":
            deep = max(image.tag_v2.get(258, (8,))) > 8
    if deep and value_range != (0.0, 65535.0):
        raise InputError(
            "it is a 16-bit colour file, which is decoded over its full range only. Pass "
            "value_range=(0, 65535), or read it into a uint16 array and pass that with its range."
        )


def _to_rgb(image, value_range):
    if image.mode in _DEEP_MODES:
        grey = _rescale(np.asarray(image), value_range, f"it has mode {image.mode!r}")
        upright = Image.fromarray(grey)
        orientation = orientation_of(image)
        if orientation != 1:
            upright.getexif()[0x0112] = orientation
        return ImageOps.exif_transpose(upright).convert("RGB")
    if orientation_of(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        # Pillow converts premultiplied grey to nothing but LA
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    # a PIL image of the caller's must not be handed out itself
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def to_numpy(image):
    """Return an array as it is, and a tensor as an array of the same shape."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        # numpy has no bfloat16
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    return image


def _from_array(image, value_range):
    kind = "tensor" if isinstance(image, torch.Tensor) else "array"
    array = to_numpy(image)
    check_array(array, kind)
    if kind == "tensor" and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8:
        array = _rescale(array, value_range, f"it has dtype {array.dtype}")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), None)


def check_array(array, kind):
    """Raise unless `array` holds real numbers in the layout of a tensor or an array."""
    if array.dtype.kind not in "buif":
        raise InputError(f"expected real numbers, got dtype {array.dtype}.")
    channel = 0 if kind == "tensor" else -1
    shape_is_good = array.ndim == 2 or (array.ndim == 3 and array.shape[channel] in (1, 3, 4))
    if not shape_is_good or array.size == 0:
        layout = "(1 | 3 | 4, height, width)" if channel == 0 else "(height, width, 1 | 3 | 4)"
        remedy = "permute(2, 0, 1)" if channel == 0 else "numpy.moveaxis(image, 0, -1)"
        raise InputError(
            f"expected a non-empty {kind} of shape (height, width) or {layout}, got "
            f"{array.shape}. Channels in another place are moved with {remedy}."
        )


def check_value_range(value_range, owner="the image reader"):
    """Return `value_range` as None or two floats; raise, as of `owner`, if it is neither."""
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise parameter_error(
            owner, "value_range", "None or two numbers with low < high", value_range
        )
    return low, high


def _rescale(array, value_range, what):
    """Return uint8: `value_range` becomes [0, 255], rounded; values outside are clipped."""
    if value_range is None:
        raise InputError(f"{what}, whose black and white are not known. {_RANGE_REMEDY}")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("it holds NaN or infinite values.")
    low, high = value_range
    return np.rint((values.clip(low, high) - low) * (255.0 / (high - low))).astype(np.uint8)


def describe(image):
    """Return a few words that tell the user which image is meant, and nothing of its content."""
    if image is None:
        return "None"
    if isinstance(image, str | os.PathLike):
        return repr(os.fspath(image))
    if isinstance(image, DicomFrame):
        return repr(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return f"<{len(image):,} bytes>"
    if isinstance(image, np.ndarray | torch.Tensor):
        return f"<{type(image).__name__} of shape {tuple(image.shape)}, dtype {image.dtype}>"
    if isinstance(image, Image.Image):
        return f"<PIL image, mode {image.mode!r}, size {image.size}>"
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return f"<file object {name if isinstance(name, str | int) else type(image).__name__!r}>"
    # The repr of a stranger may say anything: that of a pydicom Dataset names the patient.
    return f"<{type(image).__name__}>"
