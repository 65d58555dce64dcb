"""DICOM files: recognised, and read within bounds, without what tells who is on them."""

import io
import zlib
from contextlib import contextmanager

from skmoecbm.exceptions import InputError, Unreadable

__all__ = ["is_dicom", "items_of", "read_header"]

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
_MOST_READS = 400_000  # of the parser; an item or element takes two and becomes up to a kilobyte
_MOST_INFLATED = 2**28  # bytes; deflate packs a thousand to one


class _Metered(io.BytesIO):
    """Bytes that can be read a number of times only: what a parser makes of them stays bounded."""

    def __init__(self, content):
        super().__init__(content)
        self._left = _MOST_READS

    def read(self, size=-1):
        self._left -= 1
        if self._left < 0:  # by an end of the file, which pydicom knows
            return b""
        return super().read(size)

    def check(self):
        if self._left < 0:
            raise Unreadable("its header has more elements than any image needs.")


@contextmanager
def _bounded(content):
    file = _Metered(content)
    try:
        yield file
    except Exception:
        file.check()
        raise
    file.check()


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


def read_header(content):
    """Return the data set without a patient, its transfer syntax, and whether it is little-endian.

    Raises
    ------
    InputError
        If pydicom is missing.
    Exception
        Whatever pydicom raises on damaged files; `Unreadable` on those made to exhaust memory.
    """
    try:
        from pydicom import uid
        from pydicom.datadict import tag_for_keyword
        from pydicom.filereader import read_dataset
    except ImportError as error:
        raise InputError(
            "it is a DICOM file, which needs the package pydicom. "
            "Run: pip install 'skmoecbm[dicom]'"
        ) from error
    syntax, start = _syntax_and_start(content)
    if syntax is None:
        first = content[start : start + 6]
        implicit, little_endian = not _is_vr(first[4:6]), first[:1] != b"\0"
        syntax = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
    else:
        implicit = syntax == uid.ImplicitVRLittleEndian
        little_endian = syntax != uid.ExplicitVRBigEndian
    content = content[start:]
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        content = _inflate(content)
    tags = [tag_for_keyword(name) for name in _ATTRIBUTES]
    with _bounded(content) as file:
        dataset = read_dataset(file, implicit, little_endian, specific_tags=tags)
    # These hold the same pixel data, so the same film gets the same key.
    if syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        syntax = uid.ExplicitVRLittleEndian
    return dataset, str(syntax), little_endian


def items_of(dataset, name):
    """Return the items of a sequence, none where it is absent; what they hold is bounded too.

    pydicom would parse a sequence that is still bytes when it is looked at, whatever its length.
    """
    from pydicom.filereader import read_sequence

    if name not in dataset:
        return []
    element = dataset.get_item(name)
    if not isinstance(element.value, bytes):
        return list(element.value or [])
    with _bounded(element.value) as file:
        return list(
            read_sequence(
                file,
                element.is_implicit_VR,
                element.is_little_endian,
                len(element.value),
                "iso8859",
            )
        )


def _syntax_and_start(content):
    """Return the transfer syntax, None where none is stated, and where the data set begins.

    Read here, since pydicom checks all of group 2 and quotes UIDs that it finds odd.
    """
    at, syntax = 132 if content[128:132] == b"DICM" else 0, None
    while content[at : at + 2] == b"\x02\x00":
        wide = content[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT", b"UC", b"UR")
        value = at + (12 if wide else 8)
        length = int.from_bytes(content[value - (4 if wide else 2) : value], "little")
        if content[at + 2 : at + 4] == b"\x10\x00":
            syntax = content[value : value + length].decode("ascii").rstrip("\0 ")
        at = value + length
    return syntax, at


def _inflate(content):
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(content, _MOST_INFLATED)
    if not stream.eof and stream.unconsumed_tail:
        raise Unreadable(
            f"it is deflated, and inflates to more than {_MOST_INFLATED // 2**20} MiB. Store it "
            "without deflating first."
        )
    return inflated
