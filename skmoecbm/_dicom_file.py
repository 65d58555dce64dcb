"""DICOM files: recognised, read within bounds, and reduced to what decides the pixels."""

import io
import math
import zlib
from dataclasses import dataclass, field, fields

from PIL import Image

from skmoecbm._dicom_luts import Table, read_palette, read_table
from skmoecbm.exceptions import InputError, Unreadable

__all__ = ["Film", "is_dicom", "read_film"]

# The only attributes that are read. Names, numbers and dates of patients are skipped over, so that
# no message, log, key or store can hold them.
_ATTRIBUTES = (
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation BurnedInAnnotation "
    "PixelPaddingValue PixelPaddingRangeLimit RescaleIntercept RescaleSlope ModalityLUTSequence "
    "WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction VOILUTSequence "
    "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData "
    "GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
    "SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData "
    "SegmentedBluePaletteColorLookupTableData SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence ExtendedOffsetTable ExtendedOffsetTableLengths "
    "PixelData FloatPixelData DoubleFloatPixelData"
).split()
_SEQUENCES = (
    "ModalityLUTSequence VOILUTSequence SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence"
).split()

_MOST_READS = 2_000_000  # of the parser; an element takes two and becomes half a kilobyte
_MOST_SEQUENCE = 2**24  # bytes of a sequence that is parsed whole
_MOST_INFLATED = 2**28  # bytes; deflate packs a thousand to one
_MEDIA = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422")
_MEDIA += ("YBR_ICT", "YBR_RCT")


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


class _Deflated(Exception):
    """The rest of a file is deflated, from `position` on."""

    def __init__(self, position):
        super().__init__()
        self.position = position


class _Metered(io.BytesIO):
    """Bytes that can be read a number of times only: what a parser makes of them stays bounded."""

    def __init__(self, content):
        super().__init__(content)
        self._left = _MOST_READS

    def read(self, size=-1):
        if size is None or size < 0:  # pydicom takes the whole rest only to inflate it, unbounded
            raise _Deflated(self.tell())
        self._left -= 1
        if self._left < 0:
            raise Unreadable("its header has more elements than any image needs.")
        return super().read(size)


def is_dicom(content):
    """Return whether a file is DICOM: by its mark, or without one by how its first element looks.

    No other format that is read here begins like this.
    """
    if content[128:132] == b"DICM":
        return True
    if content[:2] in (b"\x02\x00", b"\x08\x00"):  # file meta, or a data set alone
        return content[3:4] == b"\x00" and (_is_vr(content[4:6]) or content[6:8] == b"\x00\x00")
    return content[:3] == b"\x00\x08\x00" and _is_vr(content[4:6])


def _is_vr(two):
    return len(two) == 2 and two.isalpha() and two.isupper()


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
        dataset, syntax, little_endian = _read(content)
        return _film(dataset, syntax, little_endian, frame, window)
    except InputError:
        raise
    # Damaged headers raise anything. The text of those errors may quote the header, and is dropped.
    except Exception as error:
        raise Unreadable(f"its DICOM header is damaged ({type(error).__name__}).") from None


def _read(content):
    """Return the needed part of the data set, its transfer syntax, and whether it is little."""
    try:
        from pydicom import dcmread, uid
        from pydicom.datadict import tag_for_keyword
        from pydicom.filereader import read_dataset
    except ImportError as error:
        raise InputError(
            "it is a DICOM file, which needs the package pydicom. "
            "Run: pip install 'skmoecbm[dicom]'"
        ) from error
    tags = [tag_for_keyword(name) for name in _ATTRIBUTES]
    try:
        dataset = dcmread(_Metered(content), force=True, specific_tags=tags)
    except _Deflated as rest:
        inflated = _Metered(_inflate(content[rest.position :]))
        dataset = read_dataset(inflated, False, True, specific_tags=tags)
        return dataset, str(uid.ExplicitVRLittleEndian), True
    _, little_endian = dataset.original_encoding
    native = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
    syntax = dataset.file_meta.get("TransferSyntaxUID", native)
    if syntax == uid.ImplicitVRLittleEndian:  # the same pixel data as explicit, so the same key
        syntax = uid.ExplicitVRLittleEndian
    return dataset, str(syntax), little_endian


def _inflate(content):
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(content, _MOST_INFLATED)
    if not stream.eof and stream.unconsumed_tail:
        raise Unreadable(
            f"it is deflated, and inflates to more than {_MOST_INFLATED // 2**20} MiB. Store it "
            "without deflating first."
        )
    return inflated


def _film(dataset, syntax, little_endian, frame, window):
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise InputError(
                "its pixels are floating-point numbers, a map rather than a picture. Read them "
                "into an array with pydicom, and pass that with value_range=(low, high)."
            )
        raise Unreadable("it is a DICOM file without an image (no pixel data).")
    _check_sequences(dataset)
    rows, columns, allocated = (
        int(dataset[name].value) for name in ("Rows", "Columns", "BitsAllocated")
    )
    _check_size(rows, columns)
    photometric = str(dataset.PhotometricInterpretation)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if photometric not in _MEDIA:
        raise Unreadable(f"its photometric interpretation is none of {', '.join(_MEDIA)}.")
    if samples != (1 if photometric in _MEDIA[:3] else 3):
        raise Unreadable(f"a {photometric} image of {samples} samples per pixel cannot be.")
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    if frame >= n_frames:
        raise InputError(
            f"it has {n_frames} frame(s), and frame={frame} was asked for; frames are counted "
            "from 0."
        )
    stored = int(dataset.get("BitsStored") or allocated)
    signed = int(dataset.get("PixelRepresentation") or 0)
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
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return Film(
        syntax=syntax,
        vr="OW" if little_endian else str(dataset["PixelData"].VR),  # decides swapped bytes only
        rows=rows,
        columns=columns,
        n_frames=n_frames,
        samples=samples,
        planar=int(dataset.get("PlanarConfiguration") or 0),
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
        pixels=dataset.PixelData,
        burned_in=str(dataset.get("BurnedInAnnotation")).upper() == "YES",
    )


def _check_sequences(dataset):
    """Refuse sequences too long to be parsed; they are still bytes, unless of undefined length."""
    for name in _SEQUENCES:
        value = dataset.get_item(name).value if name in dataset else None
        if isinstance(value, bytes) and len(value) > _MOST_SEQUENCE:
            raise Unreadable(f"a sequence in it has {len(value):,} bytes.")


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
    value = dataset.get(name)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, str | float | int) else list(value)
    numbers = [float(one) for one in values if one is not None and one != ""]
    if not all(map(math.isfinite, numbers)):
        raise Unreadable(f"its {name} is no finite number.")
    return numbers


def _group_item(dataset, frame, name):
    """Return the item that holds an attribute: of the frame, of all frames, or the file's own."""
    for groups, place in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = dataset.get(groups) or ()
        if place < len(items) and items[place].get(name):
            return items[place][name].value[0]
    return dataset


def _modality(dataset, frame, little_endian, signed):
    if dataset.get("ModalityLUTSequence"):
        return read_table(dataset.ModalityLUTSequence[0], little_endian, signed)
    source = _group_item(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _numbers(source, "RescaleSlope"), _numbers(source, "RescaleIntercept")
    return (slope or [1.0])[0], (intercept or [0.0])[0]


def _voi(dataset, frame, window, little_endian, signed):
    if isinstance(window, tuple):
        return ("LINEAR", *window)
    source = _group_item(dataset, frame, "FrameVOILUTSequence")
    if window is None and source.get("VOILUTSequence"):
        return read_table(source.VOILUTSequence[0], little_endian, signed)
    pairs = zip(_numbers(source, "WindowCenter"), _numbers(source, "WindowWidth"), strict=False)
    windows = list(pairs)
    function = str(source.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    if window is None:
        return next(((function, *pair) for pair in windows if pair[1] > 0), None)
    place = window if isinstance(window, int) else _place_of(source, window)
    if place is None or place >= len(windows) or windows[place][1] <= 0:
        raise InputError(
            f"it has {len(windows)} window(s), none of them {window!r}. Give their number, from 0, "
            "their WindowCenterWidthExplanation, or (center, width)."
        )
    return (function, *windows[place])


def _place_of(source, name):
    names = source.get("WindowCenterWidthExplanation") or []
    names = [names] if isinstance(names, str) else list(names)
    names = [str(one).strip().casefold() for one in names]
    return names.index(name.strip().casefold()) if name.strip().casefold() in names else None


def _padding(dataset, stored, signed):
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None or limit == "" else limit)]
    # Often written as unsigned where the pixels are signed, or the other way round.
    ends = [end % 2**stored for end in ends]
    if signed:
        ends = [end - 2**stored if end >= 2 ** (stored - 1) else end for end in ends]
    return min(ends), max(ends)
