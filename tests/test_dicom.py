"""DICOM files as images: against pydicom's own arithmetic, and against numbers made by hand."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skmoecbm import DicomFrame
from skmoecbm.exceptions import InputError
from skmoecbm.images import as_image_list, image_key, load_image
from tests.dicom_files import content_of, dataset_of, dicom, lut_item

pydicom = pytest.importorskip("pydicom")
uid = pydicom.uid
apply_color_lut = pytest.importorskip("pydicom.pixels").apply_color_lut
apply_modality_lut = pydicom.pixels.apply_modality_lut
apply_voi_lut = pydicom.pixels.apply_voi_lut


def loaded(image, **options):
    picture = load_image(image, **options)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(image, **options):
    picture = loaded(image, **options)
    assert (picture == picture[:, :, :1]).all()
    return picture[:, :, 0]


def to_bytes(fractions):
    return np.rint(np.clip(fractions, 0, 1) * 255).astype(int)


def shipped(name):
    """Return a file of pydicom's wheel; one that is not in it is not downloaded."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    assert path.is_file()
    return path


# Grey films, against pydicom ---------------------------------------------------------------------


def fraction_by_pydicom(dataset):
    """Return the windowed film in [0, 1], made by pydicom's functions alone."""
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OW"
    values = apply_modality_lut(dataset.pixel_array, dataset)
    shown = apply_voi_lut(values, dataset).astype(float)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    low, high = 0, 2**dataset.BitsStored - 1
    if dataset.PixelRepresentation:
        low, high = -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    low, high = low * slope + intercept, high * slope + intercept
    fraction = (shown - low) / (high - low)
    return 1 - fraction if dataset.PhotometricInterpretation == "MONOCHROME1" else fraction


@given(
    bits=st.sampled_from([(8, 8), (16, 10), (16, 12), (16, 16)]),
    signed=st.booleans(),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    function=st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    slope=st.sampled_from([1, 0.5, 2]),
    intercept=st.sampled_from([0, -1024, 7.5]),
    center=st.integers(-500, 3000),
    width=st.integers(1, 4000),
    seed=st.integers(0, 99),
    size=st.sampled_from([(3, 5), (40, 40)]),
)
def test_a_windowed_film_is_what_pydicom_makes_of_it(
    bits, signed, photometric, function, slope, intercept, center, width, seed, size
):
    allocated, stored = bits
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    dtype = f"{'i' if signed else 'u'}{allocated // 8}"
    pixels = np.random.default_rng(seed).integers(low, high, size).astype(dtype)
    attributes = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": center}
    attributes |= {"WindowWidth": width, "photometric": photometric, "stored": stored}
    if function:
        attributes["VOILUTFunction"] = function
    expected = fraction_by_pydicom(dataset_of(pixels, **attributes)) * 255
    # both round halves their own way, after an inversion or before it
    assert np.abs(grey(dicom(pixels, **attributes)) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_tables_of_modality_and_voi_are_what_pydicom_makes_of_them(photometric):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (40, 60)).astype("u2")
    modality = lut_item(100, 16, rng.integers(0, 4096, 3000))
    voi = lut_item(50, 12, np.sort(rng.integers(0, 4096, 3500)))
    attributes = {"ModalityLUTSequence": [modality], "VOILUTSequence": [voi], "stored": 12}
    attributes |= {"WindowCenter": 7, "WindowWidth": 3, "photometric": photometric}  # outranked
    dataset = dataset_of(pixels, **attributes)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset["PixelData"].VR = "OW"
    expected = to_bytes(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset) / 4095)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_array_equal(grey(dicom(pixels, **attributes)), expected)


# Grey films, by hand -----------------------------------------------------------------------------

HAND = np.array([[0, 1000, 1024, 1124, 1224, 4095]], dtype="u2")  # less 1024: -1024 ... 3071


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # (x - 99.5) / 199 + 0.5 of x = -24, 0, 100, 200; black from 0 down, white from 199 up
        ("LINEAR", [0, 0, 0, 128, 255, 255]),
        ("LINEAR_EXACT", [0, 0, 0, 128, 255, 255]),
        # 255 / (1 + exp(-4 (x - 100) / 200)) of x = -24: 19.7; 0: 30.4; 100: 127.5; 200: 224.6
        ("SIGMOID", [0, 20, 30, 128, 225, 255]),
    ],
)
def test_windows_by_hand(function, expected):
    attributes = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTFunction": function}
    film = dicom(HAND, stored=12, WindowCenter=100, WindowWidth=200, **attributes)
    np.testing.assert_array_equal(grey(film), [expected])
    inverse = dicom(
        HAND, photometric="MONOCHROME1", stored=12, WindowCenter=100, WindowWidth=200, **attributes
    )
    np.testing.assert_array_equal(grey(inverse), 255 - np.array([expected]))


def test_linear_and_linear_exact_differ_by_half_a_step():
    values = np.arange(5, dtype="u2")[None]
    linear = dicom(values, WindowCenter=2, WindowWidth=4)  # (x - 1.5) / 3 + 0.5
    exact = dicom(values, WindowCenter=2, WindowWidth=4, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(grey(linear), [[0, 85, 170, 255, 255]])
    np.testing.assert_array_equal(grey(exact), [[0, 64, 128, 191, 255]])
    step = dicom(values, WindowCenter=2, WindowWidth=1)  # above 1.5
    np.testing.assert_array_equal(grey(step), [[0, 0, 255, 255, 255]])


def test_the_first_window_counts_unless_another_is_named():
    names = ["LUNG", "Bone "]
    film = dicom(HAND, WindowCenter=[1000, 3000], WindowWidth=[2000, 2], stored=12,
                 WindowCenterWidthExplanation=names)  # fmt: skip
    first = grey(film)
    np.testing.assert_array_equal(first[0, [0, 1, 5]], [0, 128, 255])
    for window in (0, "lung", (1000, 2000), np.int64(0)):
        np.testing.assert_array_equal(grey(DicomFrame(film, window=window)), first)
    bone = [[0, 0, 0, 0, 0, 255]]
    for window in (1, "BONE", (3000, 2)):
        np.testing.assert_array_equal(grey(DicomFrame(film, window=window)), bone)
    for window in (2, "liver"):
        with pytest.raises(InputError, match="it has 2 window"):
            load_image(DicomFrame(film, window=window))
    # what a vendor wrote there is not repeated
    with pytest.raises(InputError) as caught:
        load_image(DicomFrame(film, window="liver"))
    assert "LUNG" not in str(caught.value)
    assert "number and (center, width): 0: (1000, 2000), 1: (3000, 2)." in str(caught.value)
    without = dicom(HAND, stored=12)
    with pytest.raises(InputError, match=r"it has no window\. Give \(center, width\)"):
        load_image(DicomFrame(without, window=0))
    many = dicom(HAND, WindowCenter=[50] * 30, WindowWidth=[9, 0] * 15, stored=12)
    with pytest.raises(InputError, match=r"14: \(50, 9\) and 7 more\. Give"):
        load_image(DicomFrame(many, window=1))


def test_a_window_of_no_width_is_none():
    film = dicom(HAND, WindowCenter=[0, 2000], WindowWidth=[0, 2], stored=12)
    np.testing.assert_array_equal(grey(film), [[0, 0, 0, 0, 0, 255]])
    film = dicom(HAND, WindowCenter=0, WindowWidth=0, stored=12)
    np.testing.assert_array_equal(grey(film), grey(dicom(HAND, stored=12)))


def test_deep_films_without_a_window_show_their_lowest_to_highest():
    values = np.array([[500, 600, 1000]], dtype="u2")
    np.testing.assert_array_equal(grey(dicom(values)), [[0, 51, 255]])
    inverse = dicom(values, photometric="MONOCHROME1", stored=12)
    np.testing.assert_array_equal(grey(inverse), [[255, 204, 0]])
    np.testing.assert_array_equal(grey(dicom(np.full((2, 2), 77, "u2"))), np.zeros((2, 2)))


def test_films_of_8_bits_without_a_window_are_shown_as_they_are():
    values = np.array([[3, 100, 200]], dtype="u1")
    np.testing.assert_array_equal(grey(dicom(values)), values)
    np.testing.assert_array_equal(grey(dicom(values, photometric="MONOCHROME1")), 255 - values)
    signed = np.array([[-128, 0, 127]], dtype="i1")
    np.testing.assert_array_equal(grey(dicom(signed)), [[0, 128, 255]])
    six = dicom(np.array([[0, 21, 63]], dtype="u1"), stored=6)
    np.testing.assert_array_equal(grey(six), [[0, 85, 255]])
    rescaled = dicom(values, RescaleSlope=-2, RescaleIntercept=9)  # a falling line inverts
    np.testing.assert_array_equal(grey(rescaled), 255 - values)


def test_value_range_takes_the_place_of_the_file_s_window_in_units_after_rescaling():
    attributes = {"RescaleSlope": 1, "RescaleIntercept": -1024, "stored": 12}
    expected = to_bytes((HAND.astype(float) - 1024 + 1000) / 1400)
    voi = lut_item(0, 12, range(4096))
    for more in ({}, {"WindowCenter": 1, "WindowWidth": 9}, {"VOILUTSequence": [voi]}):
        film = dicom(HAND, **attributes, **more)
        np.testing.assert_array_equal(grey(film, value_range=(-1000, 400)), expected)
        # the window of one image is nearer than the range of all
        named = DicomFrame(film, window=(-300, 1401))
        exact = to_bytes((HAND.astype(float) - 1024 + 300.5) / 1400 + 0.5)
        np.testing.assert_array_equal(grey(named, value_range=(0, 1)), exact)
    eight = dicom(HAND.astype("u1"))
    np.testing.assert_array_equal(grey(eight, value_range=(-1000, 400)), HAND.astype("u1"))


def test_padding_is_black_and_counts_in_no_range():
    values = np.array([[-2000, 0, 50, 100, 2047]], dtype="i2")
    film = dicom(values, PixelPaddingValue=-2000, stored=12)
    np.testing.assert_array_equal(grey(film)[0, :2], [0, 0])
    both = dicom(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1, stored=12)
    np.testing.assert_array_equal(grey(both), to_bytes(values.clip(0) / 2047))
    high = dicom(
        values, PixelPaddingValue=2047, PixelPaddingRangeLimit=101, photometric="MONOCHROME1"
    )
    expected = 255 - to_bytes((values + 2000) / 2100)
    expected[0, -1] = 0  # black though inverted, as the background of a film is
    np.testing.assert_array_equal(grey(high), expected)
    dataset = dataset_of(values, stored=12)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)  # written unsigned, as some do
    dataset.PixelPaddingRangeLimit = -1
    np.testing.assert_array_equal(grey(content_of(dataset)), grey(both))
    everything = dicom(np.full((2, 2), 5, "u2"), PixelPaddingValue=5)
    np.testing.assert_array_equal(grey(everything), np.zeros((2, 2)))


def test_bits_above_those_stored_are_not_part_of_the_film():
    values = np.arange(12, dtype="u2").reshape(3, 4) * 300
    overlaid = values | np.uint16(0xA000)  # an old overlay in the upper four bits
    np.testing.assert_array_equal(grey(dicom(overlaid, stored=12)), grey(dicom(values, stored=12)))


def test_films_of_32_bits_are_read():
    values = np.array([[0, 2**20, 2**22]], dtype="u4")
    np.testing.assert_array_equal(grey(dicom(values)), [[0, 64, 255]])


# Colour ------------------------------------------------------------------------------------------

RGB = np.random.default_rng(3).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def test_rgb_is_taken_as_it_is_whatever_its_planes():
    np.testing.assert_array_equal(loaded(dicom(RGB)), RGB)
    planes = np.ascontiguousarray(np.moveaxis(RGB, -1, 0)).tobytes()
    np.testing.assert_array_equal(loaded(dicom(RGB, PlanarConfiguration=1, PixelData=planes)), RGB)
    deep = RGB.astype("u2") * 257
    np.testing.assert_array_equal(loaded(dicom(deep)), RGB)


def test_ybr_becomes_rgb_by_the_standard_s_equations():
    y, b, r = RGB[..., 0].astype(float), RGB[..., 1] - 128.0, RGB[..., 2] - 128.0
    expected = [y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b]  # C.7.6.3.1.2
    expected = np.stack(expected, axis=-1).clip(0, 255)
    difference = loaded(dicom(RGB, photometric="YBR_FULL")) - expected
    assert np.abs(difference).max() <= 1
    halves = np.repeat(RGB[:, ::2], 2, axis=1)
    halves[..., 0] = RGB[..., 0]
    packed = [
        [a[0], b[0], a[1], a[2]] for row in halves for a, b in zip(row[::2], row[1::2], strict=True)
    ]
    content = np.array(packed, dtype=np.uint8).tobytes()
    film = dicom(halves, photometric="YBR_FULL_422", PixelData=content)
    np.testing.assert_array_equal(loaded(film), loaded(dicom(halves, photometric="YBR_FULL")))


def palette_of(entries, bits, segmented=False):
    attributes = {}
    for colour, numbers in zip(("Red", "Green", "Blue"), entries, strict=True):
        word = "Segmented" if segmented else ""
        n = 256 if segmented else len(numbers)
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [n, 0, bits]
        kind = "<u2" if bits == 16 else "u1"
        attributes[f"{word}{colour}PaletteColorLookupTableData"] = np.array(numbers, kind).tobytes()
    return {**attributes, "photometric": "PALETTE COLOR"}


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_give_their_colours(bits):
    entries = np.random.default_rng(1).integers(0, 2**bits, (3, 256))
    index = np.random.default_rng(2).integers(0, 256, (6, 7), dtype=np.uint8)
    expected = to_bytes(np.moveaxis(entries[:, index], 0, -1) / (2**bits - 1))
    np.testing.assert_array_equal(loaded(dicom(index, **palette_of(entries, bits))), expected)


def test_a_palette_of_bytes_that_announces_words_is_read_as_bytes():
    entries = np.random.default_rng(1).integers(0, 256, (3, 256))
    attributes = palette_of(entries, 8)
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
    index = np.arange(256, dtype=np.uint8)[None]
    expected = np.moveaxis(entries[:, index], 0, -1)
    np.testing.assert_array_equal(loaded(dicom(index, **attributes)), expected)


def test_segmented_palettes_are_laid_out():
    # 128 entries one by one, then a line to 0 in 64 steps, then the line's segment again, up to 0
    discrete = np.random.default_rng(1).integers(1, 65536, 128).tolist()
    segments = [0, 128, *discrete, 1, 64, 0]
    segments += [2, 1, 2 * 130, 0]  # the linear segment at byte 260: from 0 to 0
    line = np.rint(discrete[-1] + np.arange(1, 65) / 64 * (0 - discrete[-1])).tolist()
    expected = [*discrete, *line, *[0] * 64]
    index = np.arange(256, dtype=np.uint8)[None]
    film = dicom(index, **palette_of([segments] * 3, 16, segmented=True))
    np.testing.assert_array_equal(grey(film)[0], to_bytes(np.array(expected) / 65535))

    eight = [0, 3, 10, 20, 30, 1, 253, 200]
    dataset = dataset_of(index, **palette_of([eight] * 3, 8, segmented=True))
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    by_pydicom = apply_color_lut(index, dataset)
    film = dicom(index, **palette_of([eight] * 3, 8, segmented=True))
    np.testing.assert_array_equal(loaded(film), by_pydicom)


def swapped(content):
    return np.frombuffer(content, "<u2").astype(">u2").tobytes()


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_and_their_segments_in_the_other_byte_order(bits):
    # three entries, a line to 200 in 100 steps, that line again (from 200 to 200), 53 entries
    entries = np.random.default_rng(1).integers(0, 2**bits, (3, 256))
    line_begins = [10, 0] if bits == 16 else [5, 0, 0, 0]  # in bytes
    f = 2 ** (bits - 8)
    three, last = [10 * f, 20 * f, 30 * f], [k * f for k in range(1, 54)]
    segments = [0, 3, *three, 1, 100, 200 * f, 2, 1, *line_begins, 0, 53, *last]
    segments += [0] * (len(segments) % 2 and bits == 8)
    for numbers, segmented in ((entries, False), ([segments] * 3, True)):
        index = np.arange(256, dtype=np.uint8)[None]
        attributes = palette_of(numbers, bits, segmented)
        little = loaded(dicom(index, **attributes))
        swap = {
            name: swapped(value) if isinstance(value, bytes) else value
            for name, value in attributes.items()
        }
        big = dicom(index, syntax=uid.ExplicitVRBigEndian, **swap)
        np.testing.assert_array_equal(loaded(big), little)
        assert np.ptp(little) > 150
    line = np.rint((30 + np.arange(1, 101) * 1.7) * f).tolist()
    expected = np.array([*three, *line, *[200 * f] * 100, *last])
    np.testing.assert_array_equal(little[0, :, 0], to_bytes(expected / (2**bits - 1)))


def test_tables_may_be_lists_of_numbers_hold_65536_entries_and_begin_below_zero():
    values = np.array([[-3, 0, 200, 400]], dtype="i2")
    item = lut_item(-2, 8, range(0, 200, 1))
    item.add_new("LUTData", "US", list(range(200)))
    np.testing.assert_array_equal(grey(dicom(values, VOILUTSequence=[item])), [[0, 2, 199, 199]])
    # after rescaling, values may be below zero where those stored are not
    item = lut_item(65536 - 100, 8, range(256))
    film = dicom(np.array([[0, 100, 200]], "u2"), RescaleIntercept=-100, RescaleSlope=1,
                 VOILUTSequence=[item])  # fmt: skip
    np.testing.assert_array_equal(grey(film), [[0, 100, 200]])
    whole = lut_item(0, 16, np.arange(65536)[::-1])
    inverted = grey(dicom(HAND * 16, VOILUTSequence=[whole]))
    np.testing.assert_array_equal(inverted, to_bytes(1 - HAND * 16.0 / 65535))
    shallow = lut_item(0, 10, range(0, 1024, 4))
    eight = np.array([[0, 100, 255]], dtype="u1")
    film = dicom(eight, ModalityLUTSequence=[shallow])  # of 8 bits stored: all of its 10 bits
    np.testing.assert_array_equal(grey(film), to_bytes(eight * 4.0 / 1023))
    with pytest.raises(InputError, match="has entries of 24 bits"):
        load_image(dicom(HAND, VOILUTSequence=[lut_item(0, 24, range(9))]))


def test_windows_are_for_grey_films_only():
    with pytest.raises(InputError, match="no window applies"):
        load_image(DicomFrame(dicom(RGB), window=(1, 2)))


# Frames ------------------------------------------------------------------------------------------


def test_the_first_frame_counts_unless_another_is_named():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    film = dicom(frames, frames=3)
    np.testing.assert_array_equal(grey(film), frames[0])
    for k in range(3):
        np.testing.assert_array_equal(grey(DicomFrame(film, frame=k)), frames[k])
    with pytest.raises(InputError, match=r"it has 3 frame\(s\), and frame=3 was asked for"):
        load_image(DicomFrame(film, frame=3))
    assert image_key(DicomFrame(film, frame=1)) != image_key(film) == image_key(DicomFrame(film))


def test_frames_of_enhanced_files_have_their_own_rescaling_and_window():
    def group(slope, center):
        item, values, voi = (pydicom.Dataset() for _ in range(3))
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        voi.WindowCenter, voi.WindowWidth = center, 100
        voi.VOILUTFunction = "LINEAR_EXACT"
        if slope:
            item.PixelValueTransformationSequence = [values]
        if center:
            item.FrameVOILUTSequence = [voi]
        return item

    frames = np.tile(np.array([[0, 25, 50, 100]], dtype="u2"), (2, 1, 1))
    own = dicom(frames, frames=2, PerFrameFunctionalGroupsSequence=[group(1, 50), group(2, 100)])
    np.testing.assert_array_equal(grey(own), [[0, 64, 128, 255]])
    second = grey(DicomFrame(own, frame=1))  # 2 x: (0, 50, 100, 200), of the window 50 to 150
    np.testing.assert_array_equal(second, [[0, 0, 128, 255]])
    shared = dicom(
        frames,
        frames=2,
        SharedFunctionalGroupsSequence=[group(2, None)],
        PerFrameFunctionalGroupsSequence=[group(None, 50), group(None, 100)],
    )
    np.testing.assert_array_equal(grey(DicomFrame(shared, frame=1)), second)


def test_a_frame_says_what_it_is_and_travels():
    frame = DicomFrame("a/b.dcm", frame=np.int64(3), window=[40, 400])
    assert repr(frame) == "DicomFrame('a/b.dcm', frame=3, window=(40.0, 400.0))"
    assert repr(DicomFrame(b"12345")) == "DicomFrame(<5 bytes>)"
    assert pickle.loads(pickle.dumps(frame)) == frame == DicomFrame("a/b.dcm", 3, (40, 400))
    assert len(pickle.dumps(frame)) < 200 and hash(frame)
    for given_frame, window in [(-1, None), (1.5, None), (True, None), (0, (1, 0)), (0, -1)]:
        with pytest.raises(InputError, match="of DicomFrame must be"):
            DicomFrame("a.dcm", given_frame, window)
    for window in [(1, 2, 3), (1, float("nan")), True, {}, ("a", "b")]:
        with pytest.raises(InputError, match="'window' parameter of DicomFrame"):
            DicomFrame("a.dcm", window=window)
    with pytest.raises(InputError, match="single image DicomFrame"):
        as_image_list(frame)
    with pytest.raises(InputError, match=r"image DicomFrame\('a/b.dcm', .*there is no such file"):
        load_image(frame)
    assert as_image_list(pd.Series([frame, None])) == [frame, None]
