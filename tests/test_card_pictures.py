"""Pictures beside a card: the weights' strongest concepts, and images freed of everything else."""

import io
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    AssociationDisplay,
    CardDetails,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    GatedConceptBottleneckClassifier,
    InputError,
    load,
    save,
)
from skmoecbm._card_model import Association
from skmoecbm._card_pictures import _in_words, weights_files
from skmoecbm._model_writing import model_files
from skmoecbm.datasets import make_lesions
from tests.brute_force import make_table

EXPERTS = [("left", slice(0, 4)), ("right", slice(4, 9))]


@pytest.fixture(scope="module")
def mixture():
    return GatedConceptBottleneckClassifier(experts=EXPERTS, random_state=0).fit(*make_table())


@pytest.fixture(scope="module")
def pipeline():
    data = make_lesions(42, random_state=0)
    encoder = ConceptEncoder("demo-structures", "lesions", cache_dir=None)
    model = make_pipeline(encoder, ConceptBottleneckClassifier(alpha=1.0))
    return model.fit(list(data.images), np.asarray(data.target))


@pytest.fixture
def drawn(monkeypatch):
    """Return the displays that are drawn, as they are."""
    shown, plot = [], AssociationDisplay.plot

    def remember(self, ax=None):
        shown.append(self)
        return plot(self, ax)

    monkeypatch.setattr(AssociationDisplay, "plot", remember)
    return shown


def test_weights_are_drawn_when_asked_or_pushed_and_the_bytes_stay(mixture, tmp_path):
    asked = model_files(mixture, card=CardDetails(pictures=True))
    names = ["concept-weights-1.png", "concept-weights-2.png"]
    assert set(asked) == {"README.md", "config.json", "model.safetensors", *names}
    with matplotlib.rc_context({"axes.facecolor": "red", "savefig.dpi": 20}):
        assert model_files(mixture, card=CardDetails(pictures=True)) == asked
    card = asked["README.md"].decode()
    shown = re.findall(r"^!\[[\w ,]+\]\((.*)\)$", card, flags=re.M)
    assert shown == names
    for name in names:
        picture = Image.open(io.BytesIO(asked[name]))
        assert picture.format == "PNG" and set(picture.info) <= {"dpi"}
    pushed = model_files(mixture, repo_id="me/model")
    assert {name: pushed[name] for name in names} == {name: asked[name] for name in names}
    assert len(model_files(mixture, repo_id="me/model", card=CardDetails(pictures=False))) == 3
    assert len(model_files(mixture)) == 3
    save(mixture, tmp_path / "model", card=CardDetails(pictures=True))
    load(tmp_path / "model")
    save(mixture, tmp_path / "model")  # they are of a model, so they may be replaced
    assert len(list((tmp_path / "model").iterdir())) == 3


def test_every_class_has_its_strongest_concepts_in_the_picture(drawn):
    rng = np.random.default_rng(0)
    names = tuple(f"concept {j}" for j in range(350))
    table = rng.normal(size=(350, 7)) * np.array([9, 1, 1, 1, 1, 1, 0.1])
    weights_files([Association("e", names, table, "standard deviation")], list("abcdefg"))
    (display,) = drawn
    assert len(display.concepts) == 42
    for k in range(7):
        strongest = np.argsort(-table[:, k])[:5]
        assert {names[j] for j in strongest} <= set(display.concepts)
    for row, name in zip(display.association, display.concepts, strict=True):
        np.testing.assert_array_equal(row, table[names.index(name)])
    kept = np.isin(names, display.concepts)
    assert display.left_out == np.abs(table[~kept]).max()


def test_two_classes_show_what_speaks_for_each(drawn):
    table = np.random.default_rng(0).normal(size=(350, 1))
    names = tuple(map(str, range(350)))
    files, named = weights_files([Association("e", names, table, "unit")], ["no", "yes"])
    (display,) = drawn
    order = np.argsort(table[:, 0])
    assert {*display.concepts} == {names[j] for j in [*order[:8], *order[-8:]]}
    assert display.columns == ["yes"]
    assert named == [("e", "concept-weights-1.png")] and list(files) == [named[0][1]]
    # nothing is cut off: the edge of the picture is white
    pixels = np.asarray(Image.open(io.BytesIO(files[named[0][1]])).convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def test_many_classes_and_few_concepts_are_drawn_too(drawn):
    table = np.ones((2, 30))
    weights_files([Association("e", ("a", "b"), table, "unit")], list(range(30)))
    assert drawn[0].association.shape == (2, 20)
    assert drawn[0].left_out == 0.0


def test_images_are_shown_small_and_without_what_came_with_them(pipeline, tmp_path):
    data = make_lesions(2, random_state=3)
    path = tmp_path / "mrs-smith-left-arm.jpg"
    exif = Image.Exif()
    exif[0x010E] = "Mrs Smith"  # ImageDescription
    one, other = (Image.fromarray(np.asarray(image)) for image in data.images)
    big = one.resize((1800, 1200))
    big.save(path, exif=exif, comment=b"born 1950", icc_profile=b"Mrs Smith")
    files = model_files(pipeline, card=CardDetails(images=[path, other]))
    names = ["image-01.jpg", "image-02.jpg"]
    assert [name for name in sorted(files) if name.startswith("image")] == names
    for content in files.values():
        for word in (b"Smith", b"smith", b"born 1950", b"Exif", str(tmp_path).encode()):
            assert word not in content
    assert Image.open(io.BytesIO(files[names[0]])).size == (512, 341)
    card = files["README.md"].decode()
    for name in names:
        assert f"]({name})\n" in card
    said = re.findall(r"^The model says `(.*)` with probability (\d\.\d\d)\. Largest", card, re.M)
    wanted = pipeline.predict_proba([big, other]).max(axis=1)
    assert [name for name, _ in said] == pipeline.predict([big, other]).tolist()
    assert [float(share) for _, share in said] == pytest.approx(wanted, abs=0.03)


def test_images_that_cannot_be_read_stop_the_save(pipeline, mixture, tmp_path):
    shown = [Image.new("RGB", (4, 4)), tmp_path / "gone.png"]
    with pytest.raises(InputError, match=r"show number 2 of .*gone\.png.*no such file") as told:
        save(pipeline, tmp_path / "m", card=CardDetails(images=shown))
    assert type(told.value) is InputError
    assert not (tmp_path / "m").exists()
    # a model that takes no images shows them without words
    picture = Image.new("RGB", (20, 10))
    card = model_files(mixture, card=CardDetails(images=[picture]))["README.md"].decode()
    assert "](image-01.jpg)" in card and "The model says" not in card


def test_a_folder_with_other_pictures_is_not_replaced(mixture, tmp_path):
    folder = tmp_path / "model"
    save(mixture, folder, card=CardDetails(images=[Image.new("RGB", (4, 4))]))
    for name in ("image-17.jpg", "image-1.jpg", "concept-weights-9.png", "image-01.jpg.exe"):
        (folder / name).write_bytes(b"")
        with pytest.raises(InputError, match=re.escape(name)):
            save(mixture, folder)
        (folder / name).unlink()


def test_only_numbers_get_a_minus_sign():
    parts = [
        {"concept": "blue-white veil", "contribution": -0.25},
        {"concept": "x-ray", "contribution": 0.5},
    ]
    row = {"class": "well-formed", "probability": 0.5, "threshold": None, "unit": "logit"}
    said = _in_words(row | {"contributions": parts})
    assert "`blue-white veil` \N{MINUS SIGN}0.25, `x-ray` +0.50" in said
    assert "`well-formed`" in said
