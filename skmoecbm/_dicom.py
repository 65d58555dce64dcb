"""From a DICOM file to an 8-bit RGB picture: decoded, rescaled, windowed."""

import struct
import warnings

import numpy as np
from PIL import Image

from skmoecbm._dicom_file import is_dicom
from skmoecbm._dicom_film import read_film
from skmoecbm._dicom_luts import Table
from skmoecbm.exceptions import InputError, SkmoecbmWarning, Unreadable

__all__ = ["dicom_identity", "dicom_picture", "dicom_size", "is_dicom"]

# Part of every key of a DICOM image: raise it when the same file would give other pixels.
_VERSION = 1

# Frame headers of the JPEG family (SOF0 to SOF15 without DHT, JPG, DAC; SOF55 is JPEG-LS), all of
# which state precision, height and width in the same places.
_FRAME_HEADERS = {0xC0 + k for k in range(16)} - {0xC4, 0xC8, 0xCC} | {0xF7}


def dicom_size(content):
    """Return (width, height) of a DICOM file, undecoded."""
    film = read_film(content)
    return film.columns, film.rows


def dicom_identity(content, frame=0, window=None):
    """Return what names the picture of a frame: a tuple, and the bytes of the pixel data.

    Made of what decides the pixels and of nothing else: the same film has the same key before and
    after it was de-identified, and nothing in the key could be traced to a patient. A file whose
    header is damaged is known by all its bytes; it has no picture that could be stored.
    """
    try:
        film = read_film(content, frame, window)
    except Unreadable:
        return ("dicom", _VERSION, frame, window), content
    return ("dicom", _VERSION, film.identity()), film.pixels


def dicom_picture(content, value_range, frame=0, window=None):
    """Return a frame as a new RGB image.

    A window that is asked for comes first, then `value_range` (not for films of 8 bits, which
    have a black and a white of their own), then what the file says: its VOI LUT, else its first
    window. Without any, films of at most 8 bits show all values that can be stored, deeper ones
    their own lowest to highest: 12 or 16 bits say what the file has room for, and an MR image
    that fills a fiftieth of it would be black.

    Parameters
    ----------
    content : bytes
    value_range : (low, high) or None
    frame, window
        As `DicomFrame` has them.

    Returns
    -------
    PIL.Image.Image
    """
    film = read_film(content, frame, window)
    if film.burned_in:
        warnings.warn(
            "A DICOM header says that there is writing in the picture itself (Burned In "
            "Annotation is YES): it may name a patient, also in reports and cards that show it.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    pixels = _decode(film)
    if film.palette:
        channels = [table.look_up(pixels) / (2.0**table.bits - 1) for table in film.palette]
        levels = _levels(np.stack(channels, axis=-1))
    elif film.samples == 3:
        levels = pixels
        if film.stored != 8 or pixels.dtype != np.uint8:
            levels = _levels(pixels / (2.0**film.stored - 1))
    else:
        levels = _grey_levels(film, pixels, value_range)
    return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")


def _levels(fractions):
    return np.rint(fractions.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def _grey_levels(film, pixels, value_range):
    """Return uint8 of the same shape as the stored values `pixels`."""
    span = None
    if film.voi is None and film.stored > 8 and value_range is None:
        there = pixels if film.padding is None else pixels[~_is_padding(film, pixels)]
        there = _rescaled(film, there)
        span = (there.min(), there.max()) if there.size else (0.0, 1.0)

    def shade(stored):
        shown = _levels(_shown(film, _rescaled(film, stored), value_range, span))
        shown = 255 - shown if film.photometric == "MONOCHROME1" else shown
        # padding is background, inverted or not
        return np.where(_is_padding(film, stored), np.uint8(0), shown)

    n_levels = 2**film.stored
    low = -(n_levels // 2) if film.signed else 0
    as_stated = low <= pixels.min() and pixels.max() < low + n_levels  # JPEG 2000 can have more
    if film.stored > 16 or pixels.size <= n_levels or not as_stated:
        return shade(pixels)
    values = np.arange(n_levels)  # each value once, however many pixels have it
    if film.signed:  # negative ones from the end, as an index finds them
        values[n_levels // 2 :] -= n_levels
    return shade(values)[pixels]


def _is_padding(film, stored):
    if film.padding is None:
        return np.zeros(np.shape(stored), dtype=bool)
    return (stored >= film.padding[0]) & (stored <= film.padding[1])


def _rescaled(film, stored):
    """Return stored values in the units of the modality, float64 (PS3.3, C.11.1)."""
    if isinstance(film.modality, Table):
        return film.modality.look_up(stored)
    slope, intercept = film.modality
    return stored * float(slope) + float(intercept)


def _shown(film, values, value_range, span):
    """Return values of the modality as fractions, 0 black and 1 white, not yet clipped."""
    voi = film.voi
    if value_range is not None and film.stored > 8 and not film.chosen:
        span, voi = value_range, None
    if isinstance(voi, Table):
        return voi.look_up(values) / (2.0**voi.bits - 1)
    if voi is not None:
        with np.errstate(over="ignore"):  # a tiny width divides to infinity: black or white
            return _windowed(values, *voi)
    if span is None:  # at most 8 bits: all that can be stored
        if isinstance(film.modality, Table):
            span = 0, 2**film.modality.bits - 1
        else:
            ends = (0, 2**film.stored - 1)
            if film.signed:
                ends = (-(2 ** (film.stored - 1)), 2 ** (film.stored - 1) - 1)
            span = sorted(_rescaled(film, np.array(ends)))
    low, high = span
    return (values - low) / (high - low if high > low else 1.0)


def _windowed(values, function, center, width):
    """Return fractions by a window (PS3.3, C.11.2.1.2 and C.11.2.1.3), not yet clipped."""
    if function == "SIGMOID":
        return 0.5 + 0.5 * np.tanh(2.0 * (values - center) / width)  # 1 / (1 + exp(-4 ...))
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return (values - (center - 0.5)) / (width - 1) + 0.5
    return (values - center) / width + 0.5


def _decode(film):
    """Return one frame: (rows, columns) of stored values, or (rows, columns, 3) of RGB."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(film.syntax))
    except NotImplementedError:
        raise Unreadable(
            "its transfer syntax is a video or another one that cannot be decoded."
        ) from None
    if not decoder.is_available:
        raise _needs(decoder)
    options = {"extended_offsets": film.offsets} if film.offsets else {}
    if film.samples == 3:
        options["planar_configuration"] = film.planar
    try:
        if decoder.is_encapsulated:
            _check_frame(film, decoder)
        array, _ = decoder.as_array(
            film.pixels,
            index=film.frame,
            raw=False,  # YBR becomes RGB
            rows=film.rows,
            columns=film.columns,
            samples_per_pixel=film.samples,
            number_of_frames=film.n_frames,
            photometric_interpretation=film.photometric,
            bits_allocated=film.allocated,
            bits_stored=film.stored,
            pixel_representation=film.signed,
            pixel_keyword="PixelData",
            pixel_vr=film.vr,
            **options,
        )
    except InputError:
        raise
    # Whatever a codec raises on damaged data. Its words may quote the file, and are dropped.
    except Exception as error:
        told = f"its pixel data are damaged or cut short ({type(error).__name__})."
        if decoder.available_plugins == ("pillow",):  # which is strict, and not able of everything
            told += f" Another decoder may read them: pip install {_packages(decoder)}."
        raise Unreadable(told) from None
    return array


def _check_frame(film, decoder):
    """Refuse a compressed frame that is larger than the header says, before it is decoded."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    frame = get_frame(
        film.pixels,
        film.frame,
        number_of_frames=film.n_frames,
        extended_offsets=film.offsets or None,
    )
    if decoder.UID == RLELossless:
        # at worst a byte more for every 128; two bytes can stand for 128
        size = film.rows * film.columns * film.samples * film.allocated // 8
        if len(frame) > 2 * size + 4096:
            raise Unreadable("its run lengths stand for more pixels than it has.")
        return
    precision, size = _codestream_size(frame)
    if size != (film.columns, film.rows):
        raise Unreadable("its compressed image has another size than its header says.")
    deep = max(precision, film.stored) > 8
    if decoder.available_plugins == ("pillow",) and deep:
        # Pillow decodes JPEG 2000 of one deep channel, but neither of three nor 12-bit JPEG
        if film.samples == 3 or not frame.startswith((b"\xff\x4f", b"\x00\x00\x00\x0c")):
            raise _needs(decoder)


def _codestream_size(frame):
    """Return bits of a sample and (width, height) as JPEG, JPEG-LS or JPEG 2000 data state them."""
    at = frame.find(b"\xff\x4f\xff\x51")
    if not frame.startswith(b"\xff\xd8") and at >= 0:
        right, bottom, left, top = struct.unpack(">4I", frame[at + 8 : at + 24])
        return (frame[at + 42] & 0x7F) + 1, (right - left, bottom - top)
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker in _FRAME_HEADERS:
            precision, height, width = struct.unpack(">BHH", frame[at + 4 : at + 9])
            return precision, (width, height)
        # 0xFF before a marker is filling; the next two bytes of a marker are its length
        at += 1 if marker == 0xFF else 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    raise Unreadable("its compressed image has no header.")


def _needs(decoder):
    return InputError(
        f"it is compressed as {decoder.UID.name}, for which a decoder is missing. "
        f"Run: pip install {_packages(decoder)}"
    )


def _packages(decoder):
    """Return the packages that decode a transfer syntax for pydicom."""
    if "JPEG-LS" in decoder.UID.name:
        return "pyjpegls"
    high = "JPEG 2000" in decoder.UID.name  # the high-throughput ones too
    return "pylibjpeg pylibjpeg-openjpeg" if high else "pylibjpeg pylibjpeg-libjpeg"
