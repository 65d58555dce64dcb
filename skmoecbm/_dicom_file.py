"""DICOM files: recognised, and read within bounds, without what tells who is on them."""

import zlib

from skmoecbm._dicom_elements import Walk, is_vr
from skmoecbm.exceptions import InputError, Unreadable

__all__ = ["is_dicom", "read_header"]

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
    "LUTDescriptor LUTData PixelValueTransformationSequence FrameVOILUTSequence "
    "SpecificCharacterSet PixelData FloatPixelData DoubleFloatPixelData"
).split()
_MOST_READS = 200_000  # of elements and items, each of which becomes up to a kilobyte
_MOST_INFLATED = 2**28  # bytes; deflate packs a thousand to one


def is_dicom(content):
    """Return whether a file is DICOM: by its mark, or without one by how its first element looks.

    No other format that is read here begins like this.
    """
    if content[128:132] == b"DICM":
        return True
    if content[:2] in (b"\x02\x00", b"\x08\x00"):  # file meta, or a data set alone
        return content[3:4] == b"\x00" and (is_vr(content[4:6]) or content[6:8] == b"\x00\x00")
    return content[:3] == b"\x00\x08\x00" and is_vr(content[4:6])


def read_header(content):
    """Return a `Header` without a patient, its transfer syntax, and whether it is little-endian.

    Raises
    ------
    InputError
        If pydicom is missing.
    Exception
        Whatever comes of damaged files; `Unreadable` on those made to exhaust memory.
    """
    try:
        from pydicom import uid
        from pydicom.charset import python_encoding
        from pydicom.datadict import dictionary_VR, tag_for_keyword
    except ImportError as error:
        raise InputError(
            "it is a DICOM file, which needs the package pydicom. "
            "Run: pip install 'skmoecbm[dicom]'"
        ) from error
    syntax, start = _syntax_and_start(content)
    if syntax is None:
        little_endian = content[start : start + 1] != b"\0"
        syntax = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
    elif syntax not in uid.UID_dictionary:  # not repeated: it may be anything
        raise Unreadable(
            "its transfer syntax is a private or unknown one, which cannot be decoded."
        )
    else:
        little_endian = syntax != uid.ExplicitVRBigEndian
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        content, start = _inflate(content[start:]), 0
    wanted = {}
    for name in _ATTRIBUTES:
        tag = tag_for_keyword(name)
        wanted[tag] = (name, dictionary_VR(tag)[-2:])  # the last of two, such as "US or OW"
    walk = Walk(content, little_endian, wanted, python_encoding, _MOST_READS)
    try:
        header = walk.header(start)
    except Exception:
        if walk.steps_left < 0:
            raise Unreadable("its header has more elements than any image needs.") from None
        raise
    # These hold the same pixel data, so the same film gets the same key.
    if syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        syntax = uid.ExplicitVRLittleEndian
    return header, str(syntax), little_endian


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
