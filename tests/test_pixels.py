"""Preprocessing: open_clip's own transform, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from skmoecbm import ConceptEncoder, InputError
from skmoecbm._pixels import Preprocessing, scale_levels
from skmoecbm.exceptions import SkmoecbmWarning

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def settings(resize_mode="shortest", size=(32, 32), interpolation="bicubic"):
    return {
        "size": list(size), "mode": "RGB", "mean": MEAN, "std": STD, "fill_color": 0,
        "interpolation": interpolation, "resize_mode": resize_mode,
    }  # fmt: skip


def picture(width, height, mode="RGB", seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def both(image, options):
    """What open_clip makes of an image, and what we do."""
    expected = image_transform_v2(PreprocessCfg(**options), is_train=False)(image)
    ours = Preprocessing(options)
    levels = torch.from_numpy(ours.levels(image).copy())[None]
    return expected, scale_levels(levels, ours.mean, ours.std)[0]


@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    mode=st.sampled_from(["RGB", "RGB", "L", "RGBA", "P", "CMYK", "1"]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    size=st.sampled_from([(32, 32), (33, 33), (24, 40)]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_pixels_are_open_clips_bit_for_bit(width, height, mode, resize_mode, size, interpolation):
    image = picture(width, height, mode)
    if resize_mode == "longest" and min(width, height) * min(size) < max(width, height):
        return  # open_clip cannot fit so thin an image; see below
    expected, found = both(image, settings(resize_mode, size, interpolation))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.equal(expected, found)


def test_pixels_of_photographs_are_open_clips_bit_for_bit(data_dir):
    for folder in ("ham10000_fullsize", "ham10000"):
        for path in sorted((data_dir / folder).glob("images/*.jpg"))[:6]:
            with Image.open(path) as image:
                expected, found = both(image.convert("RGB"), settings(size=(224, 224)))
            assert torch.equal(expected, found)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_a_shaped_image_stays_as_it_is(resize_mode, size):
    preprocessing = Preprocessing(settings(resize_mode, size))
    once = preprocessing.shape(picture(70, 50))
    assert (once.mode, once.size) == ("RGB", size[::-1])
    np.testing.assert_array_equal(preprocessing.levels(once), np.asarray(once))


def test_the_image_given_is_not_changed():
    image = picture(60, 40)
    before = np.asarray(image).copy()
    Preprocessing(settings()).shape(image)
    np.testing.assert_array_equal(np.asarray(image), before)


def test_a_batch_is_its_images():
    levels = torch.randint(0, 256, (3, 5, 6, 3), dtype=torch.uint8)
    together = scale_levels(levels, MEAN, STD)
    one_by_one = torch.cat([scale_levels(levels[i : i + 1], MEAN, STD) for i in range(3)])
    assert torch.equal(together, one_by_one)
    assert levels.dtype == torch.uint8


def test_settings_that_open_clip_does_not_know_are_refused():
    with pytest.raises(AssertionError):
        Preprocessing(settings("stretch"))


@pytest.mark.parametrize("shape", [(1, 64), (101, 1), (1, 101)])
def test_an_image_too_thin_to_be_fitted_is_told_so(shape):
    image = picture(*shape)
    with pytest.raises(ValueError, match="height and width must be > 0"):
        image_transform_v2(PreprocessCfg(**settings("longest")), is_train=False)(image)
    with pytest.raises(InputError, match=f"{shape[0]} x {shape[1]} pixels, too thin"):
        Preprocessing(settings("longest")).levels(image)
    assert Preprocessing(settings("squash")).levels(image).shape == (32, 32, 3)


def test_a_thin_image_is_missing_where_that_is_asked_for():
    images = [picture(40, 40), picture(1, 200)]
    encoder = ConceptEncoder(
        "demo-general", ["hair"], resize="pad", on_error="missing", cache_dir=None
    )
    with pytest.warns(SkmoecbmWarning, match="too thin"):
        rows = np.asarray(encoder.fit_transform(images))
    assert np.isnan(rows[1]).all() and np.isfinite(rows[0]).all()
