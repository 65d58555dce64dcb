import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import (
    ATTRIBUTES,
    CLASSES,
    COLOURS,
    GENERAL,
    MODES,
    STRUCTURES,
    sample_attributes,
)
from skmoecbm.datasets._lesion_canvas import Canvas, enlarge, noise
from skmoecbm.datasets._lesion_photo import add_hair, add_vignette
from skmoecbm.datasets._lesion_structures import DRAWERS
from skmoecbm.datasets._lesion_text import held_out_phrases, known_phrases, training_phrases
from skmoecbm.exceptions import InputError


def _plain_canvas(n, seed=0, **shape):
    flags = {name: torch.zeros(n, dtype=torch.bool) for name in ("asymmetric", "irregular")}
    flags |= {name: torch.zeros(n, dtype=torch.bool) for name in ("blurred", "large")}
    flags |= {name: torch.full((n,), value) for name, value in shape.items()}
    return Canvas(torch.Generator().manual_seed(seed), 64, **flags)


@pytest.mark.parametrize("photographic", [False, True])
@pytest.mark.parametrize("size", [16, 50, 64, 96])
def test_shapes_and_types(size, photographic):
    data = make_lesions(5, image_size=size, photographic=photographic, random_state=0)
    assert data.images.shape == (5, size, size, 3)
    assert data.images.dtype == np.uint8
    assert data.attributes.shape == (5, 25)
    assert data.attributes.dtype == bool
    assert len(data.captions) == len(data.target) == 5
    assert data.attribute_names == [*GENERAL, *STRUCTURES]
    assert data.target_names == [f"{code}-like" for code in CLASSES]


def test_parts_hold_the_rows_of_everything_and_each_drawing_once():
    data = make_lesions(21, random_state=3)
    parts = [data.part(part) for part in ("train", "val", "test")]
    assert [len(part.images) for part in parts] == [15, 2, 4]
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(21))
    for part in parts:
        for k, row in enumerate(part.rows):
            np.testing.assert_array_equal(part.images[k], data.images[row])
            np.testing.assert_array_equal(part.attributes[k], data.attributes[row])
            np.testing.assert_array_equal(part.metadata.iloc[k], data.attributes[row])
            assert (part.target[k], part.captions[k]) == (data.target[row], data.captions[row])
    assert data.groups is None and data.metric == "balanced_accuracy"
    assert list(data.metadata) == data.attribute_names
    assert all(type(name) is str for name in data.target_names)
    assert all(len(line) < 500 for line in repr(data).splitlines())
    assert len(make_lesions(1, random_state=0).part("train").images) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_fixes_everything_and_another_changes_it(mode):
    first, again, other = (make_lesions(6, mode=mode, random_state=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.attributes, again.attributes)
    assert list(first.target) == list(again.target)
    assert first.captions == again.captions
    assert (first.images != other.images).mean() > 0.5


def test_the_global_generators_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    make_lesions(3, photographic=True, random_state=0)
    assert (torch.rand(1).item(), np.random.rand()) == expected


def test_every_lesion_has_a_colour():
    columns = [ATTRIBUTES.index(name) for name in COLOURS]
    for mode in MODES:
        _, attributes = sample_attributes(2000, mode, np.random.RandomState(0))
        assert attributes[:, columns].any(axis=1).all()


def test_independent_attributes_do_not_foretell_class_or_each_other():
    target, attributes = sample_attributes(20_000, "independent", np.random.RandomState(0))
    structures = attributes[:, len(GENERAL) :].astype(float)
    correlation = np.corrcoef(structures.T) - np.eye(len(STRUCTURES))
    assert np.abs(correlation).max() < 0.04
    by_class = np.array([attributes[target == k].mean(axis=0) for k in range(len(CLASSES))])
    assert np.ptp(by_class, axis=0).max() < 0.06


def test_sparse_lesions_have_few_attributes():
    counts = {
        mode: sample_attributes(4000, mode, np.random.RandomState(0))[1].sum(axis=1).mean()
        for mode in MODES
    }
    assert counts["sparse"] < 0.6 * counts["independent"]
    assert counts["sparse"] < counts["mixed"] < max(counts["class"], counts["independent"])


def test_true_attributes_almost_tell_the_class():
    target, attributes = sample_attributes(10_000, "class", np.random.RandomState(0))
    model = LogisticRegression(max_iter=500).fit(attributes[:5000], target[:5000])
    ceiling = balanced_accuracy_score(target[5000:], model.predict(attributes[5000:]))
    assert ceiling == pytest.approx(0.84, abs=0.03)
    # Neither family is enough.
    for part in (slice(None, len(GENERAL)), slice(len(GENERAL), None)):
        model = LogisticRegression(max_iter=500).fit(attributes[:5000, part], target[:5000])
        score = balanced_accuracy_score(target[5000:], model.predict(attributes[5000:, part]))
        assert score < ceiling - 0.08


def test_colour_statistics_do_not_tell_the_class():
    data = make_lesions(1600, random_state=0)
    pixels = data.images.reshape(len(data.images), -1, 3) / 255
    spread = np.quantile(pixels, [0.05, 0.25, 0.75, 0.95], axis=1)
    x = np.hstack([pixels.mean(1), pixels.std(1), *spread])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x[:1000], data.target[:1000])
    assert balanced_accuracy_score(data.target[1000:], model.predict(x[1000:])) < 0.45


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_shows_on_its_lesions_and_on_no_other(name):
    canvas = _plain_canvas(24)
    before = torch.full((24, 3, 64, 64), 0.6)
    image = before.clone()
    DRAWERS[name](image, canvas, torch.arange(0, 24, 2))
    changed = ((image - before).abs().amax(1) > 0.1).float().mean((1, 2))
    assert (changed[1::2] == 0).all()
    assert changed[::2].min() > 0.001  # four pixels on the least lucky small lesion
    assert changed[::2].mean() > 0.006


def test_the_drawers_cover_the_structures():
    assert sorted(DRAWERS) == sorted(STRUCTURES)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("blue-white veil", [-1, 0, 1]),
        ("dotted vessels", [1, -1, -1]),
        ("arborizing vessels", [1, -1, -1]),
        ("milia-like cysts", [1, 1, 1]),
        ("scale", [1, 1, 1]),
        ("white center", [1, 1, 1]),
        ("streaks", [-1, -1, -1]),
        ("globules", [-1, -1, -1]),
        ("ovoid nests", [-1, -1, 0]),
    ],
)
def test_a_structure_has_its_colour(name, direction):
    canvas = _plain_canvas(32)
    image = torch.full((32, 3, 64, 64), 0.6)
    DRAWERS[name](image, canvas, torch.arange(32))
    shift = image.mean((0, 2, 3)) - 0.6
    for value, sign in zip(shift.tolist(), direction, strict=True):
        assert value * sign >= 0


def test_size_border_and_shape_change_the_outline():
    n = 200
    plain = _plain_canvas(n)
    area = plain.mask.mean((1, 2))
    assert (_plain_canvas(n, large=True).mask.mean((1, 2)) > 2 * area.mean()).float().mean() > 0.9

    def roughness(canvas):
        shape = canvas.table / canvas.radius[:, None]
        return (shape - shape.roll(8, 1)).abs().mean(1)

    assert roughness(_plain_canvas(n, irregular=True)).min() > roughness(plain).max()

    def lopsided(canvas):
        opposite = canvas.table.roll(canvas.table.shape[1] // 2, 1)
        return ((canvas.table - opposite) / canvas.radius[:, None]).abs().mean(1)

    assert lopsided(_plain_canvas(n, asymmetric=True)).min() > 3 * lopsided(plain).max()

    def soft(canvas):
        rim = (canvas.mask > 0.05) & (canvas.mask < 0.95)
        return rim.float().mean((1, 2)) / canvas.mask.mean((1, 2))

    assert soft(_plain_canvas(n, blurred=True)).min() > soft(plain).median()
    assert soft(_plain_canvas(n, blurred=True)).mean() > 2 * soft(plain).mean()


def test_dark_corners_and_hair_darken_what_they_should():
    canvas = _plain_canvas(40)
    image = torch.full((40, 3, 64, 64), 0.6)
    add_vignette(image, canvas, torch.arange(20))
    corners = image[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].amax((1, 2))
    assert (corners[:20] < 0.2).all()
    assert (corners[20:] == 0.6).all()
    assert (image[:20, :, 32, 32] == 0.6).all()

    image = torch.full((40, 3, 64, 64), 0.6)
    add_hair(image, canvas, torch.arange(20))
    dark = (image.amax(1) < 0.35).float().mean((1, 2))
    assert (dark[:20] > 0.01).all()
    assert (dark[:20] < 0.35).all()
    assert (dark[20:] == 0).all()


def test_images_of_one_colour_differ_in_that_colour():
    columns = [ATTRIBUTES.index(name) for name in COLOURS]
    from skmoecbm.datasets._lesions import PALETTE, draw_lesions

    middle = []
    for column in columns:
        flags = np.zeros((40, 25), dtype=bool)
        flags[:, [column, ATTRIBUTES.index("large size")]] = True
        drawn = draw_lesions(flags, 64, torch.Generator().manual_seed(0))
        middle.append(drawn[:, :, 28:36, 28:36].mean((0, 2, 3)))
    distance = torch.cdist(torch.stack(middle), PALETTE)
    assert distance.argmin(1).tolist() == list(range(len(COLOURS)))


def test_photographs_have_less_contrast_and_more_faults():
    plain, photo = (
        make_lesions(200, mode="sparse", photographic=flag, random_state=0).images / 255.0
        for flag in (False, True)
    )
    balance = [x.mean((1, 2))[:, 0] - x.mean((1, 2))[:, 2] for x in (plain, photo)]
    assert balance[1].std() > balance[0].std()
    exposure = [x.mean((1, 2, 3)).std() for x in (plain, photo)]
    assert exposure[1] > exposure[0]


def test_enlarging_agrees_with_torch():
    coarse = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(coarse, size=(40, 40), mode="bilinear")
    torch.testing.assert_close(enlarge(coarse, 40), expected)
    assert noise(torch.Generator().manual_seed(0), 2, 5, 33, 4).shape == (2, 4, 33, 33)


def test_captions_name_only_what_is_there():
    data = make_lesions(200, random_state=0)
    words = {name: set(training_phrases(name)) for name in ATTRIBUTES}
    for caption, present in zip(data.captions, data.attributes, strict=True):
        said = caption.removeprefix("a lesion with ").replace(" and ", ", ").split(", ")
        true = set().union(*(words[n] for n, p in zip(ATTRIBUTES, present, strict=True) if p))
        assert set(said) <= true


def test_phrases_belong_to_one_concept_and_held_out_ones_are_not_trained():
    owners = {}
    for name in ATTRIBUTES:
        assert known_phrases(name)[0] == name
        assert name in training_phrases(name)
        assert held_out_phrases(name)
        assert not set(held_out_phrases(name)) & set(training_phrases(name))
        for phrase in known_phrases(name):
            assert owners.setdefault(phrase, name) == name


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"n": 0}, "'n'"),
        ({"n": 2.5}, "'n'"),
        ({"n": 2, "image_size": 8}, "'image_size'"),
        ({"n": 2, "mode": "random"}, "'mode'"),
        ({"n": 2, "photographic": "yes"}, "'photographic'"),
    ],
)
def test_bad_parameters_are_named(parameters, name):
    with pytest.raises(InputError, match=name):
        make_lesions(**parameters)
