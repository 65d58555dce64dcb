import io
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from skmoecbm import _decoding
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.images import as_image_list, image_key, image_keys, iter_images, load_image

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(array, **options):
    return encoded(Image.fromarray(array), "PNG", **options)


def loaded(image, **options):
    result = load_image(image, **options)
    assert result.mode == "RGB"
    return np.asarray(result)


def grey(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[:, :, None], 3, axis=2)


# What an image may be ---------------------------------------------------------------------------


def test_every_carrier_of_the_same_pixels_gives_the_same_picture(pixels, tmp_path):
    content = png(pixels)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with open(path, "rb") as file, Image.open(path) as opened:
        carriers = [
            *(str(path), path, content, bytearray(content), memoryview(content)),
            *(io.BytesIO(content), file, opened, Image.fromarray(pixels)),
            *(pixels, pixels[:, ::-1][:, ::-1], tensor, tensor.clone().requires_grad_(False)),
        ]
        for carrier in carriers:
            np.testing.assert_array_equal(loaded(carrier), pixels, err_msg=repr(carrier))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_grey_arrays_become_grey_rgb(shape):
    values = np.arange(24, dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(loaded(values), grey(values.reshape(4, 6)))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6)])
def test_grey_tensors_become_grey_rgb(shape):
    values = torch.arange(24, dtype=torch.uint8).reshape(shape)
    np.testing.assert_array_equal(loaded(values), grey(values.reshape(4, 6).numpy()))


@given(
    value=arrays(np.uint8, (1, 3, 4)),
)
def test_alpha_lies_over_white(value):
    colour, alpha = value[..., :3].astype(float), value[..., 3:] / 255
    expected = colour * alpha + 255 * (1 - alpha)
    assert np.abs(loaded(value) - expected).max() <= 1
    assert np.abs(loaded(torch.from_numpy(value).permute(2, 0, 1)) - expected).max() <= 1


def test_transparent_grey_and_palettes_lie_over_white():
    la = Image.new("LA", (2, 1), (0, 0))
    la.putpixel((1, 0), (40, 255))
    np.testing.assert_array_equal(loaded(la), [[WHITE, (40, 40, 40)]])
    np.testing.assert_array_equal(loaded(encoded(la, "PNG")), [[WHITE, (40, 40, 40)]])

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(loaded(palette), [[RED, BLUE]])
    np.testing.assert_array_equal(loaded(encoded(palette, "PNG")), [[RED, BLUE]])
    transparent = encoded(palette, "PNG", transparency=0)
    np.testing.assert_array_equal(loaded(transparent), [[WHITE, BLUE]])
    gif = encoded(palette, "GIF", transparency=1)
    np.testing.assert_array_equal(loaded(gif), [[RED, WHITE]])

    keyed = encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(loaded(keyed), [[WHITE]])


def test_one_bit_images_become_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(loaded(encoded(image, "TIFF")), [[BLACK, WHITE]])


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "PA"])
def test_white_is_white_in_every_other_mode_that_pillow_has(mode):
    image = Image.new(mode, (2, 2), {"YCbCr": (255, 128, 128), "HSV": (0, 0, 255)}.get(mode))
    if mode == "LAB":
        image = Image.new(mode, (2, 2), (255, 128, 128))
    elif mode == "RGBX":
        image = Image.new(mode, (2, 2), (255, 255, 255, 0))
    assert np.abs(loaded(image).astype(int) - 255).max() <= 1


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    np.testing.assert_array_equal(loaded(encoded(image, "TIFF")), np.full((8, 8, 3), RED))
    difference = loaded(encoded(image, "JPEG", quality=100)).astype(int) - RED
    assert np.abs(difference).max() <= 4


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (3, 2), colour) for colour in (RED, BLUE)]
    for format in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(loaded(content), np.full((2, 3, 3), RED), err_msg=format)


# The eight EXIF orientations, as numpy operations that turn what is stored upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "16-bit", "palette", "JPEG with draft"])
def test_exif_orientation_is_applied(pixels, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "16-bit":
        stored = pixels[..., 0].astype(np.uint16) * 257
        content = encoded(Image.fromarray(stored), "PNG", exif=exif)
        result = loaded(content, value_range=(0, 65535))
        expected, tolerance = UPRIGHT[orientation](grey(pixels[..., 0])), 0
    elif kind == "JPEG with draft":
        blocks = pixels.repeat(16, axis=0).repeat(16, axis=1)
        content = encoded(Image.fromarray(blocks), "JPEG", quality=100, subsampling=0, exif=exif)
        result = loaded(content, draft_size=40)[4::8, 4::8]
        expected, tolerance = UPRIGHT[orientation](pixels), 12
    elif kind == "palette":
        stored = Image.fromarray(pixels[..., 0]).convert("P")
        content = encoded(stored, "PNG", exif=exif)
        result = loaded(content)
        expected, tolerance = UPRIGHT[orientation](grey(pixels[..., 0])), 0
    else:
        content = encoded(Image.fromarray(pixels), kind, exif=exif)
        result = loaded(content)
        expected, tolerance = UPRIGHT[orientation](pixels), 0
        with Image.open(io.BytesIO(content)) as opened:
            np.testing.assert_array_equal(loaded(opened), expected)
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= tolerance


# Values that are not 8-bit ----------------------------------------------------------------------


@given(
    array=arrays(np.float32, (3, 4), elements=st.floats(-4, 4, width=32)),
    low=st.floats(-2, 1),
    width=st.floats(0.01, 3),
)
def test_value_range_is_a_linear_map_clipped_at_its_ends(array, low, width):
    unit = (array.astype(float) - low) / ((low + width) - low)
    expected = np.clip(unit * 255, 0, 255)
    assert np.abs(loaded(array, value_range=(low, low + width)) - grey(expected)).max() <= 1
    assert (loaded(array, value_range=(low, low + width))[unit >= 1] == 255).all()
    assert (loaded(array, value_range=(low, low + width))[unit <= 0] == 0).all()


@pytest.mark.parametrize(
    "dtype", [np.uint16, ">u2", np.int16, np.int32, np.uint32, np.int64, np.float16, np.float64]
)
def test_every_real_dtype_is_read_with_its_range(dtype):
    array = np.array([[0, 500, 1000]], dtype=dtype)
    assert loaded(array, value_range=(0, 1000))[0, :, 0].tolist() == [0, 128, 255]
    rgb = np.repeat(array[..., None], 3, axis=2)
    assert loaded(rgb, value_range=(0, 1000))[0, :, 1].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match=r"value_range=\(low, high\)"):
        load_image(array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int16])
def test_tensors_of_other_types_are_read_with_their_range(dtype):
    tensor = torch.tensor([[[0, 4, 8]]], dtype=dtype)
    assert loaded(tensor, value_range=(0, 8))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match="value_range"):
        load_image(tensor)


@pytest.mark.parametrize(
    ("dtype", "format"),
    [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")],
)
def test_deep_grey_files_need_their_range(dtype, format, tmp_path):
    array = np.array([[0, 500, 1000]], dtype=dtype)
    path = tmp_path / f"deep.{format.lower()}"
    Image.fromarray(array).save(path, format)
    assert loaded(path, value_range=(0, 1000))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match=r"deep\..* black and white are not known.*value_range="):
        load_image(path)


def test_value_range_leaves_8_bit_images_alone(pixels):
    np.testing.assert_array_equal(loaded(pixels, value_range=(0, 1)), pixels)
    np.testing.assert_array_equal(loaded(png(pixels), value_range=(0, 1)), pixels)


def deep_colour_png(values):
    """A 16-bit RGB PNG of one row, written by hand: Pillow cannot write one."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    width = len(values)
    header = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    line = b"\0" + np.asarray(values, dtype=">u2").tobytes()
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_colour_files_are_read_over_their_full_range_only_and_only_when_told():
    content = deep_colour_png([[0, 32768, 65535]])
    np.testing.assert_array_equal(loaded(content, value_range=(0, 65535)), [[[0, 128, 255]]])
    for value_range in (None, (0, 4095)):
        with pytest.raises(InputError, match=r"16-bit colour.*value_range=\(0, 65535\)"):
            load_image(content, value_range=value_range)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="NaN or infinite"):
        load_image(np.array([[0.0, value]]), value_range=(0, 1))


@pytest.mark.parametrize(
    "value_range", [(1, 0), (0, 0), (0, np.inf), (0, np.nan), (0,), (0, 1, 2), 1, "01x", ("a", "b")]
)
def test_a_range_that_is_none_is_refused(value_range):
    for call in (load_image, image_key):
        with pytest.raises(InputError, match=r"'value_range' parameter .* low < high"):
            call(np.zeros((2, 2)), value_range=value_range)
    with pytest.raises(InputError, match="'value_range' parameter"):
        iter_images([np.zeros((2, 2))], value_range=value_range)


# Bad input --------------------------------------------------------------------------------------


@pytest.fixture
def bad_files(pixels, tmp_path, monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = encoded(Image.fromarray(noise), "JPEG")
    contents = {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cut short"),
        "cut.png": (png(noise)[:2000], "cut short"),
        "header.png": (png(pixels)[:20], "header is damaged|no known image format"),
        "zero.png": (b"", r"empty \(0 bytes\)"),
        "text.png": (b"image_id,dx\nISIC_1,mel\n" * 10, "no known image format"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known image"),
        "bomb.png": (encoded(Image.new("1", (3000, 3000)), "PNG"), "MAX_IMAGE_PIXELS"),
    }
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    paths = {}
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        paths[tmp_path / name] = message
    (tmp_path / "folder.png").mkdir()
    paths[tmp_path / "folder.png"] = r"it is a directory\. Pass the files in it one by one\.(?!\.)"
    paths[tmp_path / "absent.png"] = "no such file"
    os.mkfifo(tmp_path / "pipe.png")
    paths[tmp_path / "pipe.png"] = "not a regular file"
    return paths


def test_every_bad_file_is_an_error_that_names_row_file_and_reason(bad_files, pixels):
    for path, message in bad_files.items():
        images = [pixels] * 1203 + [path]
        with pytest.raises(InputError, match=message) as caught:
            list(iter_images(images))
        assert str(caught.value).startswith(f"image 1,203 ({str(path)!r}) cannot be read: ")
        assert "on_error='missing'" in str(caught.value)
        with pytest.raises(InputError, match=message) as caught:
            load_image(path)
        assert str(caught.value).startswith(f"image {str(path)!r} cannot be read: ")


def test_bad_files_can_count_as_missing_with_one_warning(bad_files, pixels):
    images = [pixels, *bad_files, None, pixels]
    with pytest.warns(SkmoecbmWarning, match=r"11 image\(s\) .* missing; the first: ") as caught:
        results = list(iter_images(images, on_error="missing"))
    assert len(caught) == 1
    assert [result is None for result in results] == [False] + [True] * 11 + [False]


def test_failures_are_collected_with_their_rows_instead_of_a_warning(pixels, tmp_path):
    failures = []
    images = [tmp_path / "absent.png", pixels, None]
    keys = image_keys(images, on_error="missing", rows=[7, 8, 9], failures=failures)
    assert [key is None for key in keys] == [True, False, True]
    assert [row for row, _ in failures] == [7, 9]
    assert "absent.png" in failures[0][1] and "None" in failures[1][1]
    with pytest.raises(InputError, match=r"^image 7 "):
        image_keys(images, rows=[7, 8, 9])


def test_mistakes_in_the_call_are_never_taken_for_missing_images(pixels):
    for image in (np.zeros((2, 2)), np.zeros((3, 4, 5), np.uint8), 7, pixels > 3, pixels * 1j):
        with pytest.raises(InputError, match=r"image 1 \("):
            list(iter_images([pixels, image], on_error="missing"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3, 5), np.uint8), r"height, width, 1 \| 3 \| 4.*moveaxis"),
        (np.zeros((2, 3, 2), np.uint8), r"got \(2, 3, 2\)"),
        (np.zeros((0, 3), np.uint8), "non-empty"),
        (np.zeros(3, np.uint8), r"got \(3,\)"),
        (torch.zeros((5, 6, 3), dtype=torch.uint8), r"1 \| 3 \| 4, height, width.*permute"),
        (np.zeros((2, 2), complex), "real numbers"),
        (np.array([["a", "b"]]), "real numbers"),
        ("", "no such file"),
        ("https://example.org/a.png", "Download it first"),
        ("a\0b", "null"),
        (b"", "empty"),
        (3, "got int"),
        ([[0, 1]], "got list"),
        (io.StringIO("text"), "mode 'rb'"),
        (None, "it is None"),
    ],
)
def test_what_is_no_image_is_refused_with_the_way_on(image, message):
    with pytest.raises(InputError, match=message):
        load_image(image)


def test_files_that_cannot_be_rewound_are_refused(pixels):
    reader, writer = os.pipe()
    os.write(writer, png(pixels))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        with pytest.raises(InputError, match="Pass its bytes instead"):
            load_image(pipe)
    closed = io.BytesIO(png(pixels))
    closed.close()
    with pytest.raises(InputError, match="closed file"):
        load_image(closed)


def test_on_error_must_be_one_of_two(pixels):
    for call in (iter_images, image_keys):
        with pytest.raises(InputError, match="'on_error' parameter"):
            call([pixels], on_error="ignore")


@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8),
    keep=st.floats(0.02, 1),
)
def test_damaged_files_give_a_picture_or_an_input_error(format, damage, keep):
    base = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    content = bytearray(encoded(base, format))
    for place, flip in damage:
        content[int(place * (len(content) - 1))] ^= flip
    content = bytes(content[: max(int(keep * len(content)), 1)])
    try:
        assert load_image(content).mode == "RGB"
    except InputError as error:
        assert "cannot be read" in str(error)


# Laziness and keys ------------------------------------------------------------------------------


def test_images_are_opened_one_at_a_time(pixels, tmp_path):
    images = iter_images([pixels, tmp_path / "absent.png"])
    assert next(images).size == (5, 7)
    with pytest.raises(InputError, match="absent"):
        next(images)


def test_a_file_its_bytes_and_its_objects_have_one_key_without_decoding(
    pixels, tmp_path, monkeypatch
):
    content = png(pixels)
    path = tmp_path / "a.png"
    path.write_bytes(content)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(_decoding, "load_pixels", refuse)
    with open(path, "rb") as file:
        carriers = [path, str(path), content, bytearray(content), io.BytesIO(content), file]
        (key,) = {image_key(carrier) for carrier in carriers}
    assert len(key) == 32 and int(key, 16)


def test_file_objects_are_left_where_they_were(pixels):
    content = png(pixels)
    file = io.BytesIO(content)
    file.seek(11)
    assert image_key(file) == image_key(content)
    assert file.tell() == 11
    np.testing.assert_array_equal(loaded(file), pixels)
    assert file.tell() == 11


def test_whatever_changes_the_picture_changes_the_key(pixels):
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    palettes = []
    for colours in ([255, 0, 0], [0, 0, 255]):
        image = Image.new("P", (2, 2))
        image.putpalette(colours)
        palettes.append(image)
    transparent = palettes[0].copy()
    transparent.info["transparency"] = 0
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    images = [
        *(pixels, other, pixels.reshape(5, 7, 3), pixels.astype(np.uint16), pixels.view(np.int8)),
        *(Image.fromarray(pixels), turned, png(pixels), png(other), *palettes, transparent),
        *(Image.fromarray(pixels[..., 0]), pixels[..., 0], pixels[..., :1]),
        *(np.zeros((3, 3, 3), np.uint8), torch.zeros((3, 3, 3), dtype=torch.uint8)),
        pixels.tobytes(),
    ]
    keys = [image_key(image) for image in images]
    assert len(set(keys)) == len(keys)
    ranges = [None, (0, 1), (0, 2), (-1, 2)]
    assert len({image_key(pixels, value_range) for value_range in ranges}) == 4
    assert image_key(pixels, (0, 1)) == image_key(pixels, [0.0, 1.0])


def test_equal_pixels_have_equal_keys_whatever_their_memory_layout(pixels):
    assert image_key(pixels) == image_key(np.asfortranarray(pixels))
    assert image_key(pixels) == image_key(pixels[:, ::-1][:, ::-1])
    tensor = torch.from_numpy(pixels)
    assert image_key(tensor.permute(2, 0, 1)) == image_key(tensor.permute(2, 0, 1).contiguous())
    assert image_key(Image.fromarray(pixels)) == image_key(Image.fromarray(pixels.copy()))


def test_reading_leaves_its_input_alone(pixels):
    before = pixels.copy()
    image = Image.fromarray(pixels)
    result = load_image(image)
    result.putpixel((0, 0), (1, 2, 3))
    load_image(pixels).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(np.asarray(image), before)


# Lists of images --------------------------------------------------------------------------------


def object_array(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def test_every_list_of_paths_becomes_a_list():
    paths = ["a.png", "b.png", "c.png"]
    for X in (
        *(paths, tuple(paths), np.array(paths), object_array(paths), np.array(paths)[:, None]),
        *(object_array(paths)[:, None], pd.Series(paths, index=[5, 6, 7])),
        *(pd.DataFrame({"path": paths}), pd.Series(paths, dtype="string")),
    ):
        assert as_image_list(X) == paths
        assert all(type(path) is str for path in as_image_list(X))


def test_missing_entries_become_none():
    for X in (
        ["a", None, np.nan],
        object_array(["a", None, np.nan]),
        pd.Series(["a", None, np.nan]),
        pd.Series(["a", None, pd.NA], dtype="string"),
        pd.DataFrame({"path": ["a", None, np.nan]}),
    ):
        assert as_image_list(X) == ["a", None, None]


def test_stacks_are_cut_into_images(pixels):
    stack = np.stack([pixels, pixels[::-1]])
    for X in (stack, torch.from_numpy(stack).permute(0, 3, 1, 2), list(stack)):
        images = as_image_list(X)
        assert len(images) == 2
        np.testing.assert_array_equal(loaded(images[1]), pixels[::-1])
    series = pd.Series([pixels, Image.fromarray(pixels)])
    np.testing.assert_array_equal(loaded(as_image_list(series)[1]), pixels)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a.png", r"single image 'a.png'.*\[image\]"),
        (Path("a.png"), "single image 'a.png'"),
        (b"bytes", "single image"),
        (Image.new("RGB", (2, 2)), "single image"),
        (io.BytesIO(), "single image"),
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\).*\[image\]"),
        (torch.zeros(3, 4, 4), r"tensor of shape \(3, 4, 4\)"),
        (np.zeros((4, 7)), r"shape \(4, 7\)"),
        (np.zeros((5, 4, 7), "i2"), r"list\(X\), with value_range=\(low, high\)"),
        (torch.zeros(5, 4, 7), r"list\(X\), with value_range=\(low, high\)"),
        (np.zeros((5, 4, 7), np.uint8), r"list\(X\)\.$"),
        (torch.zeros(5, 4, 7, dtype=torch.uint8), r"list\(X\)\.$"),
        (np.array([["a", "b"]]), r"shape \(1, 2\)"),
        (np.zeros(4), r"shape \(4,\)"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), r"2 columns: \['a', 'b'\]"),
        ([], "0 images"),
        (np.zeros((0, 4, 4, 3), np.uint8), "0 images"),
        (pd.Series([], dtype=object), "0 images"),
        ({"a.png"}, r"got set.*list\(images\)"),
        (iter(["a.png"]), r"list\(images\)"),
        (None, "got NoneType"),
        (np.array("a.png"), r"shape \(\)"),
    ],
)
def test_what_is_no_list_of_images_is_refused_with_the_way_on(X, message):
    with pytest.raises(InputError, match=message):
        as_image_list(X)


# Draft mode and real files ----------------------------------------------------------------------


def test_draft_keeps_both_sides_at_or_above_what_was_asked():
    content = encoded(Image.new("RGB", (640, 480)), "JPEG")
    assert load_image(content).size == (640, 480)
    assert load_image(content, draft_size=240).size == (320, 240)
    assert load_image(content, draft_size=241).size == (640, 480)
    assert load_image(content, draft_size=60).size == (80, 60)
    assert load_image(png(np.zeros((480, 640, 3), np.uint8)), draft_size=60).size == (640, 480)


def test_real_dermatoscopic_jpegs_are_read_as_pillow_reads_them(data_dir):
    paths = sorted((data_dir / "ham10000" / "images").rglob("*.jpg"))[:20]
    assert paths
    for path, image in zip(paths, iter_images(paths), strict=True):
        with Image.open(path) as reference:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(reference.convert("RGB")))
    assert len(set(image_keys(paths))) == len(paths)


def test_real_chest_films_of_any_mode_become_rgb_over_white(data_dir):
    paths = sorted((data_dir / "chestxray14_1000" / "images").rglob("*.png"))
    modes = set()
    for path, image in zip(paths, iter_images(paths), strict=True):
        with Image.open(path) as reference:
            modes.add(reference.mode)
            raw = np.asarray(reference.convert("RGBA"), dtype=float)
        expected = raw[..., :3] * raw[..., 3:] / 255 + 255 - raw[..., 3:]
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image) - expected).max() <= 1
    assert "RGBA" in modes


# Ahead, in threads


def numbered(n):
    return [np.full((6, 8, 3), i, dtype=np.uint8) for i in range(n)]


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_threads_read_a_pil_image_that_is_given_many_times(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    path = tmp_path / f"noise.{kind}"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(pixels).save(path, exif=exif)
    expected = np.asarray(load_image(path))
    for _ in range(5):
        with Image.open(path) as lazy:
            assert lazy.fp is not None
            for picture in iter_images([lazy] * 8, n_threads=4):
                np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize("n_threads", [0, 3])
def test_threads_yield_the_same_images_in_the_same_order(n_threads):
    found = iter_images(numbered(30), n_threads=n_threads, n_waiting=7)
    assert [image.getpixel((0, 0))[0] for image in found] == list(range(30))


def test_errors_of_threads_come_in_the_order_of_rows():
    images = numbered(12)
    images[3], images[5], images[9] = None, b"no image", None
    failures = []
    found = list(iter_images(images, on_error="missing", failures=failures, n_threads=4))
    assert [row for row, _ in failures] == [3, 5, 9]
    assert [i for i, image in enumerate(found) if image is None] == [3, 5, 9]
    seen = []
    with pytest.raises(InputError, match=r"image 3 \(None\) cannot be read.*on_error='missing'"):
        seen.extend(iter_images(images, n_threads=4))
    # a mistake of the call is not forgiven, and not told before its turn
    images[7] = np.zeros((6, 8, 3))
    failures.clear()
    with pytest.raises(InputError, match=r"image 107 .*value_range"):
        list(
            iter_images(
                images, on_error="missing", failures=failures, n_threads=4, rows=range(100, 112)
            )
        )
    assert [row for row, _ in failures] == [103, 105]


def test_shape_is_applied_to_what_was_read():
    images = [numbered(1)[0], None, numbered(1)[0]]
    found = list(
        iter_images(
            images, on_error="missing", failures=[], n_threads=2, shape=lambda x: x.resize((2, 3))
        )
    )
    assert [image and image.size for image in found] == [(2, 3), None, (2, 3)]


def test_open_files_are_read_in_the_callers_thread():
    class File(io.BytesIO):
        def read(self, *arguments):
            threads.add(threading.current_thread())
            return super().read(*arguments)

    threads, buffer = set(), io.BytesIO()
    Image.fromarray(numbered(1)[0]).save(buffer, "PNG")
    files = [File(buffer.getvalue()) for _ in range(6)]
    assert len(list(iter_images(files, n_threads=3))) == 6
    assert threads == {threading.current_thread()}
