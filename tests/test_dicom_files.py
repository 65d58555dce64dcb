"""DICOM files as images: their encodings, those that pydicom ships, keys and damage."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skmoecbm import DicomFrame
from skmoecbm._decoding import n_pixels
from skmoecbm._folder import list_images
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.images import _stays_here, image_key, image_keys, iter_images, load_image
from tests.dicom_files import content_of, dataset_of, dicom, header, lut_item

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


HAND = np.array([[0, 1000, 1024, 1124, 1224, 4095]], dtype="u2")
RGB = np.random.default_rng(3).integers(0, 256, (5, 4, 3), dtype=np.uint8)


# Files -------------------------------------------------------------------------------------------


def test_every_carrier_of_a_file_gives_the_same_picture_and_key(tmp_path):
    content = dicom(HAND, stored=12, WindowCenter=100, WindowWidth=200)
    path = tmp_path / "IM0001"  # known by its content: disks of clinics have no suffixes
    path.write_bytes(content)
    with open(path, "rb") as file:
        carriers = [path, str(path), content, io.BytesIO(content), file, DicomFrame(path)]
        assert len({image_key(one) for one in carriers}) == 1
        for one in carriers:
            np.testing.assert_array_equal(grey(one), grey(content))
        assert [image_key(DicomFrame(one)) for one in carriers[:4]] == [image_key(content)] * 4
    assert n_pixels(path) == n_pixels(DicomFrame(path)) == 6


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_the_byte_order_does_not_matter(syntax):
    syntax = getattr(uid, syntax)
    for pixels in (HAND, RGB, RGB[:, :, 0]):
        attributes = {}
        if not syntax.is_little_endian:
            attributes["PixelData"] = pixels.byteswap().tobytes()
        other = dicom(pixels, syntax=syntax, **attributes)
        np.testing.assert_array_equal(loaded(other), loaded(dicom(pixels)))


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
def test_files_without_a_preamble_are_known_by_their_first_element(syntax, tmp_path):
    bare = dicom(HAND, preamble=False, syntax=getattr(uid, syntax))
    assert bare[128:132] != b"DICM"
    np.testing.assert_array_equal(grey(bare), grey(dicom(HAND)))
    assert image_key(bare) == image_key(dicom(HAND))
    meta_only = dicom(HAND)[132:]
    np.testing.assert_array_equal(grey(meta_only), grey(dicom(HAND)))


def test_deflated_files_are_read_and_have_the_key_of_the_others():
    deflated = dicom(np.tile(HAND, (50, 50)), syntax=uid.DeflatedExplicitVRLittleEndian)
    plain = dicom(np.tile(HAND, (50, 50)))
    assert len(deflated) < len(plain) / 5
    np.testing.assert_array_equal(grey(deflated), grey(plain))
    assert image_key(deflated) == image_key(plain) == image_key(dicom(
        np.tile(HAND, (50, 50)), syntax=uid.ImplicitVRLittleEndian))  # fmt: skip


def test_a_picture_with_the_mark_of_another_format_in_its_preamble_is_dicom():
    content = bytearray(dicom(HAND))
    content[:4] = b"II*\0"  # so that viewers of TIFF can read some files too
    np.testing.assert_array_equal(grey(bytes(content)), grey(dicom(HAND)))


def test_folders_list_dicom_files(tmp_path):
    for name in ("b.dcm", "a.DICOM", "c.txt"):
        (tmp_path / name).write_bytes(dicom(HAND))
    assert [Path(path).name for path in list_images([tmp_path])] == ["a.DICOM", "b.dcm"]


# Files that pydicom ships ------------------------------------------------------------------------


def test_the_same_film_in_every_encoding_that_pydicom_ships():
    film = grey(shipped("MR_small.dcm"))
    dataset = pydicom.dcmread(shipped("MR_small.dcm"))
    fraction = (dataset.pixel_array - 599.5) / 1599 + 0.5  # its window: 600, 1600
    np.testing.assert_array_equal(film, to_bytes(fraction))
    for kind in ("RLE", "bigendian", "expb", "implicit", "jp2klossless"):
        np.testing.assert_array_equal(grey(shipped(f"MR_small_{kind}.dcm")), film, err_msg=kind)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "examples_overlay.dcm"])
def test_shipped_grey_films(name):
    dataset = pydicom.dcmread(shipped(name))
    values = dataset.pixel_array
    padding = values == dataset.get("PixelPaddingValue", -(2**31))
    rescaled = apply_modality_lut(values, dataset).astype(float)
    if "WindowWidth" in dataset:
        ends = 0, 2**dataset.BitsStored - 1
        if dataset.PixelRepresentation:
            ends = -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
        low, high = (float(dataset.get("RescaleIntercept", 0)) + end for end in ends)
        fraction = (apply_voi_lut(rescaled, dataset) - low) / (high - low)
    else:
        low, high = rescaled[~padding].min(), rescaled[~padding].max()
        fraction = (rescaled - low) / (high - low)
    expected = np.where(padding, 0, to_bytes(fraction))
    assert np.abs(grey(shipped(name)).astype(int) - expected).max() <= 1
    assert np.ptp(expected) == 255


@pytest.mark.parametrize(
    "name",
    """SC_rgb_jpeg_dcmtk SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+np SC_rgb_dcmtk_+eb+cy+s4
    SC_rgb_rle_16bit SC_rgb_rle_32bit SC_rgb_gdcm_KY SC_ybr_full_422_uncompressed""".split(),
)
def test_shipped_colour_images_show_the_same_scene(name):
    plain = loaded(shipped("SC_rgb_rle.dcm")).astype(int)
    difference = np.abs(loaded(shipped(name + ".dcm")) - plain)
    assert np.median(difference) <= 2 and difference.mean() < 4  # JPEG blurs the edges of colours


def test_a_shipped_palette_and_a_frame_of_a_shipped_video():
    dataset = pydicom.dcmread(shipped("examples_palette.dcm"))
    expected = apply_color_lut(dataset.pixel_array, dataset).astype(float)
    np.testing.assert_array_equal(
        loaded(shipped("examples_palette.dcm")), to_bytes(expected / 65535)
    )
    video = shipped("examples_ybr_color.dcm")
    last = pydicom.pixels.pixel_array(video, index=29)
    np.testing.assert_array_equal(loaded(DicomFrame(video, frame=29)), last)
    assert np.abs(loaded(video).astype(int) - last).mean() > 1


@pytest.mark.parametrize("stored", [16, 10])
def test_a_codestream_of_more_bits_than_its_header_states_is_shown_by_its_values(stored):
    values = (np.arange(90_000).reshape(300, 300) * 7 % 65_536).astype("u2")
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True)
    dataset = dataset_of(values, stored=stored, WindowCenter=30_000, WindowWidth=40_001)
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    expected = np.rint(255 * ((values - 29_999.5) / 40_000 + 0.5).clip(0, 1))
    np.testing.assert_array_equal(grey(content_of(dataset, uid.JPEG2000Lossless)), expected)


def test_pixel_data_of_no_bytes_are_no_picture():
    with pytest.raises(InputError, match="it holds no DICOM image"):
        load_image(dicom(HAND, PixelData=b""))


def test_frames_are_found_by_an_extended_offset_table():
    dataset = pydicom.dcmread(shipped("examples_ybr_color.dcm"))
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=30))
    parts = pydicom.encaps.encapsulate_extended(frames)
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = parts
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    for k in (0, 29):
        np.testing.assert_array_equal(
            loaded(DicomFrame(buffer.getvalue(), frame=k)),
            loaded(DicomFrame(shipped("examples_ybr_color.dcm"), frame=k)),
        )


def test_threads_read_what_one_does():
    names = ["MR_small", "CT_small", "SC_rgb_rle", "examples_palette", "MR_small_RLE"] * 6
    paths = [shipped(f"{name}.dcm") for name in names]
    with ThreadPoolExecutor(4) as pool:
        for path, picture in zip(paths, pool.map(loaded, paths), strict=True):
            np.testing.assert_array_equal(picture, loaded(path))


def test_frames_of_one_open_file_are_read_one_after_the_other():
    with open(shipped("examples_ybr_color.dcm"), "rb") as file:
        frames = [DicomFrame(file, frame=k) for k in range(30)]
        assert all(_stays_here(frame) for frame in frames)
        for k, picture in enumerate(iter_images(frames, n_threads=4)):
            expected = load_image(DicomFrame(shipped("examples_ybr_color.dcm"), frame=k))
            np.testing.assert_array_equal(picture, expected)


def test_a_decoder_that_is_missing_is_named():
    from pydicom.pixels import get_decoder

    for name, packages in [
        ("JPEGLSNearLossless_08", "pyjpegls"),
        ("SC_rgb_jpeg_gdcm", "pylibjpeg pylibjpeg-libjpeg"),
        ("JPGExtended", "pylibjpeg pylibjpeg-libjpeg"),
    ]:
        path = shipped(f"{name}.dcm")
        decoder = get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID)
        if set(decoder.available_plugins) - {"pillow"}:
            pytest.skip("has the decoders whose absence is told")
        with pytest.raises(InputError, match=f"a decoder is missing. Run: pip install {packages}"):
            # a folder of such films must not become a folder of missing ones
            list(iter_images([path], on_error="missing"))


def test_all_that_pydicom_ships_is_read_or_refused_in_words():
    folder = Path(pydicom.__file__).parent / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__" not in str(path))
    read = 0
    for path in files:
        try:
            loaded(path)
            read += 1
        except InputError as error:
            assert "cannot be read: " in str(error) and str(error).endswith((".", "jpeg", "jpegls"))
    assert len(files) > 100 and read > 55


# Missing package, warnings -----------------------------------------------------------------------


def test_without_pydicom_the_error_names_the_extra(monkeypatch):
    content = dicom(HAND)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for function in (load_image, image_key):
        with pytest.raises(InputError, match=r"Run: pip install 'skmoecbm\[dicom\]'"):
            function(content)
    with pytest.raises(InputError, match=r"image 1 .*needs the package pydicom"):
        list(iter_images([Image.new("RGB", (2, 2)), content], on_error="missing"))


def test_writing_in_the_picture_is_told():
    film = dicom(HAND, BurnedInAnnotation="YES")
    with pytest.warns(SkmoecbmWarning, match="writing in the picture itself"):
        load_image(film)
    load_image(dicom(HAND, BurnedInAnnotation="NO"))
    assert image_key(film) == image_key(dicom(HAND))


# Keys --------------------------------------------------------------------------------------------

BASE = {
    "stored": 12,
    "WindowCenter": [100, 7],
    "WindowWidth": [200, 9],
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
}


def test_a_de_identified_copy_has_the_same_key():
    named = dicom(HAND, patient=1, **BASE)
    assert image_key(named) == image_key(dicom(HAND, patient=2, **BASE))
    bare = dicom(HAND, patient=None, **BASE)
    assert image_key(bare) == image_key(named) and named != bare
    dataset = pydicom.dcmread(io.BytesIO(named))
    dataset.remove_private_tags()
    for name in header():
        delattr(dataset, name)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert image_key(buffer.getvalue()) == image_key(named)


CHANGES = [
    {"photometric": "MONOCHROME1"},
    {"stored": 13},
    {"RescaleSlope": 2},
    {"RescaleIntercept": 0},
    {"WindowCenter": [101, 7]},
    {"WindowWidth": [201, 9]},
    {"VOILUTFunction": "SIGMOID"},
    {"VOILUTSequence": [lut_item(0, 12, range(4096))]},
    {"VOILUTSequence": [lut_item(1, 12, range(4096))]},
    {"ModalityLUTSequence": [lut_item(0, 12, range(4096))]},
    {"PixelPaddingValue": 1024},
    {"PixelRepresentation": 1},
    {"Rows": 2, "Columns": 3},
    {"PixelData": HAND[:, ::-1].tobytes()},
]


def test_all_that_decides_the_pixels_is_in_the_key():
    films = [dicom(HAND, **{**BASE, **change}) for change in [{}, *CHANGES]]
    frames = [DicomFrame(films[0], window=1), DicomFrame(films[0], window=(5, 6))]
    keys = [image_key(film) for film in films + frames]
    keys.append(image_key(films[0], value_range=(0, 1)))
    assert len(set(keys)) == len(keys)


# Damage ------------------------------------------------------------------------------------------


def test_damaged_files_are_missing_where_that_is_allowed(tmp_path):
    whole = dicom(HAND, **BASE)
    paths = []
    for name, content in [("whole", whole), ("short", whole[:-4]), ("head", whole[:300])]:
        paths.append(tmp_path / f"{name}.dcm")
        paths[-1].write_bytes(content)
    with pytest.warns(SkmoecbmWarning, match=r"2 image\(s\) cannot be read.*image 1 .*short.dcm"):
        pictures = list(iter_images(paths, on_error="missing"))
    assert [picture is None for picture in pictures] == [False, True, True]
    with pytest.raises(InputError, match=r"image 2 \('.*head.dcm'\).*Remove it, or pass on_error"):
        list(iter_images([paths[0], paths[2]], rows=[0, 2]))
    assert None not in image_keys(paths)  # a file that is there has a key


@given(st.data())
def test_any_damage_ends_in_words(data):
    content = bytearray(dicom(RGB if data.draw(st.booleans()) else HAND, **BASE))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(140, len(content)))])
    try:
        image_key(content)
        loaded(content)
    except InputError as error:
        assert "cannot be read: " in str(error)


def test_what_is_no_picture_is_told_so():
    dataset = dataset_of(HAND)
    del dataset.PixelData
    dataset.FloatPixelData = np.zeros(6, "f4").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer_of_png = io.BytesIO()
    Image.new("L", (30, 30)).save(buffer_of_png, "PNG")
    with pytest.raises(InputError, match=r"holds no DICOM image|header is damaged"):
        load_image(DicomFrame(buffer_of_png.getvalue()))
    with pytest.raises(InputError, match="floating-point numbers"):
        load_image(buffer.getvalue())
    with pytest.raises(InputError, match="it holds no DICOM image"):
        load_image(shipped("rtplan.dcm"))
    with pytest.raises(InputError, match="photometric interpretation is none of MONOCHROME1"):
        load_image(dicom(HAND, photometric="HSV"))
    with pytest.raises(InputError, match="of 3 samples per pixel cannot be"):
        load_image(dicom(RGB, photometric="MONOCHROME2"))
    with pytest.raises(InputError, match="RescaleSlope is no finite number"):
        load_image(dicom(HAND, RescaleSlope="nan"))
    with pytest.raises(InputError, match="transfer syntax is a private or unknown"):
        load_image(dicom(HAND).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
