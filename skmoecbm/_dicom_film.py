"""A frame of a DICOM file, reduced to what decides its picture."""

import math
from dataclasses import dataclass, field, fields

from PIL import Image

from skmoecbm._dicom_file import read_header
from skmoecbm._dicom_luts import Table, read_palette, read_table
from skmoecbm.exceptions import InputError, Unreadable

__all__ = ["Film", "read_film"]

_MEDIA = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422")
_MEDIA += ("YBR_ICT", "YBR_RCT")
_HIGHEST = 1e30  # of a slope, intercept or window: what is made of it stays a finite float64


@dataclass(frozen=True)
class Film:
    """One frame of a file: all that its picture depends on, and nothing of whom it shows.

    Attributes
    ----------
    syntax : str
        UID of the transfer syntax.
    vr : str
        Of the pixel data.
    rows, columns, n_frames, samples, planar, allocated, stored, signed : int
    photometric : str
    offsets : tuple
        The extended offset table, or nothing.
    frame : int
        Counted from 0.
    modality : (slope, intercept) or Table
    voi : (function, center, width), Table or None
    chosen : bool
        The caller named the window.
    padding : (low, high) or None
        Stored values that are no part of the picture.
    palette : tuple of three Table, or None
    pixels : bytes
        The pixel data of all frames, as they are in the file.
    burned_in : bool
        The header says that there is writing in the picture.
    """

    syntax: str
    vr: str
    rows: int
    columns: int
    n_frames: int
    samples: int
    planar: int
    allocated: int
    stored: int
    signed: int
    photometric: str
    offsets: tuple
    frame: int
    modality: object
    voi: object
    chosen: bool
    padding: object
    palette: object
    pixels: bytes = field(repr=False)
    burned_in: bool = field(repr=False)

    def identity(self):
        """Return as text what the picture depends on besides `pixels`."""
        told = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr]
        return " ".join(told)


def read_film(content, frame=0, window=None):
    """Return the `Film` of a frame.

    Parameters
    ----------
    content : bytes
    frame, window
        As `DicomFrame` has them.

    Raises
    ------
    Unreadable
        If the file is damaged, holds no image, or is made to exhaust the reader.
    InputError
        If pydicom is missing, or the file has no such frame or window.
    """
    try:
        dataset, syntax, little_endian = read_header(content)
        return _film(dataset, syntax, little_endian, frame, window)
    except InputError:
        raise
    # Damaged headers raise anything. The text of those errors may quote the header, and is dropped.
    except Exception as error:
        raise Unreadable(f"its DICOM header is damaged ({type(error).__name__}).") from None


def _film(dataset, syntax, little_endian, frame, window):
    if not dataset.get("PixelData"):
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise InputError(
                "its pixels are floating-point numbers, a map rather than a picture. Read them "
                "into an array with pydicom, and pass that with value_range=(low, high)."
            )
        raise Unreadable("it holds no DICOM image (no pixel data).")
    rows, columns, allocated = (
        _whole(dataset, name) for name in ("Rows", "Columns", "BitsAllocated")
    )
    _check_size(rows, columns)
    photometric = _text(dataset, "PhotometricInterpretation")
    samples = _whole(dataset, "SamplesPerPixel", 1) or 1
    if photometric not in _MEDIA:
        raise Unreadable(f"its photometric interpretation is none of {', '.join(_MEDIA)}.")
    if samples != (1 if photometric in _MEDIA[:3] else 3):
        raise Unreadable(f"a {photometric} image of {samples} samples per pixel cannot be.")
    n_frames = _whole(dataset, "NumberOfFrames", 1) or 1
    if frame >= n_frames:
        raise InputError(
            f"it has {n_frames} frame(s), and frame={frame} was asked for; frames are counted "
            "from 0."
        )
    stored = _whole(dataset, "BitsStored", 0) or allocated
    signed = _whole(dataset, "PixelRepresentation", 0)
    grey = photometric.startswith("MONOCHROME")
    if window is not None and not grey:
        raise InputError("it is a colour image, to which no window applies. Leave out window=.")
    modality, voi, palette = (1.0, 0.0), None, None
    if grey:
        modality = _modality(dataset, frame, little_endian, signed)
        voi = _voi(dataset, frame, window, little_endian, signed or _below_zero(modality))
    elif photometric == "PALETTE COLOR":
        palette = read_palette(dataset, little_endian)
    offsets = ()
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = tuple(dataset.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths"))
    return Film(
        syntax=syntax,
        vr="OW" if little_endian else dataset.vr("PixelData"),  # decides swapped bytes only
        rows=rows,
        columns=columns,
        n_frames=n_frames,
        samples=samples,
        planar=_whole(dataset, "PlanarConfiguration", 0),
        allocated=allocated,
        stored=stored,
        signed=signed,
        photometric=photometric,
        offsets=offsets,
        frame=frame,
        modality=modality,
        voi=voi,
        chosen=window is not None,
        padding=_padding(dataset, stored, signed) if grey else None,
        palette=palette,
        pixels=dataset.get("PixelData"),
        burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
    )


def _check_size(rows, columns):
    limit = Image.MAX_IMAGE_PIXELS  # for all formats the same: Pillow refuses from twice this on
    if limit is not None and rows * columns > 2 * limit:
        raise Unreadable(
            f"its header states {rows * columns:,} pixels, which could be an attack: the limit is "
            f"{2 * limit:,}. If it is meant, raise PIL.Image.MAX_IMAGE_PIXELS first."
        )


def _below_zero(modality):
    return not isinstance(modality, Table) and (modality[1] < 0 or modality[0] < 0)


def _numbers(dataset, name):
    """Return the numbers of an attribute, none where it is absent or empty; raise on NaN."""
    value = dataset.get(name) or []
    if isinstance(value, bytes):
        raise TypeError("bytes")
    numbers = [float(one) for one in value if one != ""]
    if not all(map(math.isfinite, numbers)):
        raise Unreadable(f"its {name} is no finite number.")
    if any(abs(one) > _HIGHEST for one in numbers):
        raise Unreadable(f"its {name} is beyond {_HIGHEST:g}, which no image can be made of.")
    return numbers


def _whole(dataset, name, default=None):
    """Return the one number of an attribute as int, `default` where it is absent or empty."""
    numbers = _numbers(dataset, name)
    if not numbers and default is not None:
        return default
    (number,) = numbers
    if not number.is_integer():
        raise Unreadable(f"its {name} is no whole number.")
    return int(number)


def _text(dataset, name):
    """Return the text of an attribute; empty where it is absent."""
    return "\\".join(map(str, dataset.get(name) or []))


def _group_item(dataset, frame, name):
    """Return the item that holds an attribute: of the frame, of all frames, or the file's own."""
    for groups, place in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = dataset.items(groups)
        found = items[place].items(name) if place < len(items) else []
        if found:
            return found[0]
    return dataset


def _modality(dataset, frame, little_endian, signed):
    tables = dataset.items("ModalityLUTSequence")
    if tables:
        return read_table(tables[0], little_endian, signed)
    source = _group_item(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _numbers(source, "RescaleSlope"), _numbers(source, "RescaleIntercept")
    return (slope or [1.0])[0], (intercept or [0.0])[0]


def _voi(dataset, frame, window, little_endian, signed):
    if isinstance(window, tuple):
        return ("LINEAR", *window)
    source = _group_item(dataset, frame, "FrameVOILUTSequence")
    tables = source.items("VOILUTSequence") if window is None else []
    if tables:
        return read_table(tables[0], little_endian, signed)
    pairs = zip(_numbers(source, "WindowCenter"), _numbers(source, "WindowWidth"), strict=False)
    windows = list(pairs)
    function = _text(source, "VOILUTFunction")
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    if window is None:
        return next(((function, *pair) for pair in windows if pair[1] > 0), None)
    place = window if isinstance(window, int) else _place_of(source, window)
    if place is None or place >= len(windows) or windows[place][1] <= 0:
        # by their numbers alone: their names are free text of the header
        there = [f"{n}: ({c:g}, {w:g})" for n, (c, w) in enumerate(windows) if w > 0]
        if not there:
            raise InputError("it has no window. Give (center, width), or leave out window=.")
        more = f" and {len(there) - 8} more" if len(there) > 8 else ""
        raise InputError(
            f"it has {len(there)} window(s), none of them {window!r}; by number and (center, "
            f"width): {', '.join(there[:8])}{more}. Give a number, (center, width), or the name "
            "in WindowCenterWidthExplanation."
        )
    return (function, *windows[place])


def _place_of(source, name):
    names = source.get("WindowCenterWidthExplanation") or []
    names = [str(one).strip().casefold() for one in names]
    return names.index(name.strip().casefold()) if name.strip().casefold() in names else None


def _padding(dataset, stored, signed):
    if not _numbers(dataset, "PixelPaddingValue"):
        return None
    value = _whole(dataset, "PixelPaddingValue")
    ends = [value, _whole(dataset, "PixelPaddingRangeLimit", value)]
    # Often written as unsigned where the pixels are signed, or the other way round.
    ends = [end % 2**stored for end in ends]
    if signed:
        ends = [end - 2**stored if end >= 2 ** (stored - 1) else end for end in ends]
    return min(ends), max(ends)
