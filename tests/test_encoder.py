"""ConceptEncoder: scikit-learn's contract for a transformer of images, by hand."""

import copy
import io
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

import skmoecbm.encoder
from skmoecbm.backbones import load_backbone
from skmoecbm.concepts import ConceptBank, SubmodularSelector, TopKConcepts
from skmoecbm.encoder import ConceptEncoder
from skmoecbm.exceptions import (
    BackboneError,
    InputError,
    SkmoecbmWarning,
    UnknownConceptsWarning,
)
from skmoecbm.features import ExpertFeatures
from skmoecbm.images import load_image
from skmoecbm.store import EmbeddingStore
from tests.backbone_fixtures import write_clip
from tests.fake_backbones import DIM, FakeBackbone, fake_text_row

CONCEPTS = {"mel": ["red", "blue-white veil", "round"], "nv": ["brown", "round"]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKMOECBM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fakes(monkeypatch):
    """The fake backbones that were asked for, by name; "demo" knows three phrases."""
    made = {}
    words = frozenset({"red", "round", "circular", "mel"})

    def load(name, *, revision, precision, resize, device):
        known = words if name.startswith("demo") else None
        return made.setdefault(name, FakeBackbone(name, known))

    monkeypatch.setattr(skmoecbm.encoder, "load_backbone", load)
    return made


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny clip"
    write_clip(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9, 12, 3)).astype(np.uint8) for _ in range(20)]


@pytest.fixture
def y():
    return np.array(["mel", "nv"] * 10)


def mean_unit(phrases, templates=("{}",)):
    rows = [fake_text_row(t.format(p)).astype(np.float64) for p in phrases for t in templates]
    mean = np.mean(rows, axis=0)
    return mean / np.linalg.norm(mean)


# What it computes


def test_features_are_cosines_of_image_and_concept(fakes, images):
    features = ConceptEncoder("one", CONCEPTS).fit_transform(images)
    X = fakes["one"].embed_images([Image.fromarray(image) for image in images])
    T = np.array([mean_unit([text]) for text in ("red", "blue-white veil", "round", "brown")])
    assert isinstance(features, ExpertFeatures)
    assert features.shape == (20, 4)
    np.testing.assert_allclose(np.asarray(features), X @ T.T, atol=1e-6)


def test_concept_is_the_mean_over_phrases_and_templates(fakes, images):
    bank = ConceptBank(
        name="x",
        classes=[{"key": "mel", "name": "melanoma"}],
        concepts=[{"text": "round", "phrases": ["circular", "oval"]}, {"text": "red"}],
        templates=["{}", "a photo of {}"],
    )
    encoder = ConceptEncoder("one", bank).fit(images)
    expected = [mean_unit(p, bank.templates) for p in (["round", "circular", "oval"], ["red"])]
    np.testing.assert_allclose(encoder.concept_embeddings_, expected, atol=1e-6)
    np.testing.assert_allclose(
        encoder.class_embeddings_, [mean_unit(["melanoma"], bank.templates)], atol=1e-6
    )
    encoder.set_params(templates=["only {}"]).fit(images)
    np.testing.assert_allclose(encoder.concept_embeddings_[1], mean_unit(["only red"]), atol=1e-6)


def test_block_carries_what_priors_need(fakes, images):
    encoder = ConceptEncoder("hf-hub:org/a__b", CONCEPTS).fit(images)
    (block,) = encoder.transform(images).blocks
    assert block.name == "hf-hub:org/a_b"
    assert block.class_keys == ("mel", "nv")
    assert block.class_synonyms == {"mel": "mel", "nv": "nv"}
    np.testing.assert_array_equal(block.incidence, [[1, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(block.class_embeddings, encoder.class_embeddings_)
    assert block.concepts == tuple(encoder.bank_.texts)
    (plain,) = ConceptEncoder("one", ["red", "blue"]).fit_transform(images).blocks
    assert plain.class_keys is plain.incidence is plain.class_embeddings is None


def test_fitted_state_is_numpy_and_plain(fakes, images):
    encoder = ConceptEncoder("one", CONCEPTS).fit(images)
    fitted = {key: value for key, value in vars(encoder).items() if key.endswith("_")}
    assert set(fitted) == {
        "bank_",
        "backbone_identity_",
        "class_embeddings_",
        "concept_embeddings_",
        "fingerprint_",
        "n_concepts_",
        "notice_",
        "select_",
        "training_summary_",
    }
    assert encoder.concept_embeddings_.dtype == encoder.class_embeddings_.dtype == np.float32
    assert encoder.n_concepts_ == 4
    assert encoder.fingerprint_ == fakes["one"].fingerprint
    assert len(pickle.dumps(encoder)) < 5000


# The contract of a transformer


def test_constructor_only_stores():
    encoder = ConceptEncoder("no-such-model", 3, batch_size="x")
    assert vars(encoder) == encoder.get_params(deep=False)
    assert vars(clone(encoder)) == vars(encoder)


def test_clone_and_pickle_are_quick():
    encoder = ConceptEncoder("one", ConceptBank.from_dict({"a": [f"c{i}" for i in range(3000)]}))
    clone(encoder)
    start = time.perf_counter()
    for _ in range(20):
        clone(encoder)
    assert (time.perf_counter() - start) / 20 < 0.01
    assert pickle.loads(pickle.dumps(encoder)).concepts == encoder.concepts


def test_unfitted_encoder_says_so(fakes, images):
    for use in (lambda e: e.transform(images), lambda e: e.get_feature_names_out()):
        with pytest.raises(NotFittedError, match="ConceptEncoder"):
            use(ConceptEncoder("one", CONCEPTS))
    with pytest.raises(InputError):
        ConceptEncoder("one", CONCEPTS).fit([])
    encoder = ConceptEncoder("demo", ["unheard of"])
    with pytest.raises(InputError):
        encoder.fit(images)
    with pytest.raises(NotFittedError):
        encoder.transform(images)


def test_fit_returns_self_and_twice_equals_once(fakes, images, y):
    encoder = ConceptEncoder("one", CONCEPTS, select=TopKConcepts(1))
    assert encoder.fit(images, y) is encoder
    first = np.asarray(encoder.transform(images))
    params = encoder.get_params()
    np.testing.assert_array_equal(np.asarray(encoder.fit(images, y).transform(images)), first)
    assert encoder.get_params() == params
    other = ConceptEncoder("one", {"a": ["spot"]}).fit(images)
    other.set_params(**encoder.get_params(deep=False)).fit(images, y)
    np.testing.assert_array_equal(np.asarray(other.transform(images)), first)


@pytest.mark.parametrize("select", [None, TopKConcepts(1)])
def test_fit_transform_equals_fit_then_transform_and_embeds_once(fakes, images, y, select):
    encoder = ConceptEncoder("one", CONCEPTS, select=select, cache_dir=None)
    together = encoder.fit_transform(images, y)
    apart = clone(encoder).fit(images, y).transform(images)
    np.testing.assert_array_equal(np.asarray(together), np.asarray(apart))
    assert together.columns == apart.columns
    assert fakes["one"].images_embedded == 20


def test_row_by_row_equals_batch_and_order_does_not_matter(fakes, images, tmp_path):
    encoder = ConceptEncoder("one", CONCEPTS, cache_dir=tmp_path / "a").fit(images)
    batch = np.asarray(encoder.transform(images))
    encoder.set_params(cache_dir=tmp_path / "b", batch_size=1)
    rows = np.vstack([encoder.transform([image]) for image in images])
    np.testing.assert_array_equal(rows, batch)
    order = np.random.default_rng(0).permutation(20)
    encoder.set_params(cache_dir=tmp_path / "c", batch_size=7)
    shuffled = np.asarray(encoder.transform([images[i] for i in order]))
    np.testing.assert_array_equal(shuffled, batch[order])


def test_every_kind_of_input_gives_the_same(fakes, images, tmp_path):
    pictures, paths = [Image.fromarray(image) for image in images], []
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    encoder = ConceptEncoder("one", CONCEPTS).fit(images)
    expected = np.asarray(encoder.transform(images))
    series = pd.Series(list(map(str, paths)), index=range(100, 120))
    for X in (
        np.stack(images),
        pictures,
        paths,
        tuple(map(str, paths)),
        np.array(list(map(str, paths))),
        series,
        series.to_frame("path"),
        [io.BytesIO(path.read_bytes()) for path in paths],
    ):
        np.testing.assert_array_equal(np.asarray(encoder.transform(X)), expected)
    encoder.set_output(transform="pandas")
    assert list(encoder.transform(series).index) == list(series.index)


def test_inputs_stay_as_they_were(fakes, images, y):
    before, labels = [image.copy() for image in images], y.copy()
    concepts = {key: list(phrases) for key, phrases in CONCEPTS.items()}
    encoder = ConceptEncoder("one", concepts, select=TopKConcepts(1)).fit(images, y)
    encoder.transform(images)
    assert all((a == b).all() for a, b in zip(before, images, strict=True))
    np.testing.assert_array_equal(labels, y)
    assert concepts == CONCEPTS
    assert not hasattr(encoder.select, "support_")
    held = encoder.concept_embeddings_
    assert held.flags.writeable


def test_names_and_output_containers(fakes, images):
    encoder = ConceptEncoder("one", CONCEPTS).fit(images)
    names = ["one__red", "one__blue-white veil", "one__round", "one__brown"]
    assert encoder.get_feature_names_out().tolist() == names
    assert encoder.get_feature_names_out().dtype == object
    assert encoder.transform(images).columns == names
    expected = np.asarray(encoder.transform(images))
    with config_context(transform_output="pandas"):
        frames = [encoder.transform(images)]
    frames.append(clone(encoder).set_output(transform="pandas").fit_transform(images))
    for frame in frames:
        assert list(frame.columns) == names
        np.testing.assert_array_equal(frame.to_numpy(), expected)


def test_works_in_a_pipeline_with_a_progress_bar_and_pickles(fakes, images, y, recwarn):
    model = make_pipeline(ConceptEncoder("one", CONCEPTS), LogisticRegression())
    model.set_callbacks(ProgressBar())
    model.fit(images, y)
    assert not [w for w in recwarn if "does not support callbacks" in str(w.message)]
    model.set_callbacks()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(images), model.predict_proba(images))
    assert model.score(images, y) >= 0.5
    model.set_params(conceptencoder__resize="pad")
    assert model[0].resize == "pad"


def test_tags_say_one_column_of_images_or_texts():
    tags = get_tags(ConceptEncoder("one", CONCEPTS))
    assert tags.no_validation
    assert tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required
    assert get_tags(ConceptEncoder("one", CONCEPTS, select=TopKConcepts())).target_tags.required


# Embedded once, ever


def grid_search(encoder, n_jobs=None):
    model = make_pipeline(encoder, LogisticRegression())
    grid = {
        "conceptencoder__concepts": [CONCEPTS, ["red", "brown"]],
        "logisticregression__C": [0.1, 10.0],
    }
    return GridSearchCV(model, grid, cv=5, n_jobs=n_jobs, error_score="raise")


@pytest.mark.parametrize("cache_dir", ["auto", None])
def test_grid_search_embeds_each_distinct_image_once(fakes, images, y, cache_dir):
    doubled = images + images[:6]
    labels = np.append(y, y[:6])
    encoder = ConceptEncoder("grid", CONCEPTS, cache_dir=cache_dir, batch_size=4, device="cpu")
    grid_search(encoder).fit(doubled, labels)
    assert fakes["grid"].images_embedded == 20
    texts = [text for call in fakes["grid"].text_calls for text in call]
    assert sorted(texts) == sorted(set(texts))
    assert max(fakes["grid"].image_calls) <= 4
    grid_search(encoder).fit(doubled[::-1], labels[::-1])
    assert fakes["grid"].images_embedded == 20


class CountingEncoder(ConceptEncoder):
    """Logs what its backbone embeds: a patch of this process would not reach the workers."""

    def __init__(self, backbone, concepts, *, batch_size=32, log=None):
        super().__init__(backbone, concepts, batch_size=batch_size)
        self.log = log

    def fit_transform(self, X, y=None):
        here = Path(f"{self.log}.{os.getpid()}")
        here.touch()
        deadline = time.monotonic() + 100
        while len(list(here.parent.glob("log.*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)  # until both processes have come to the same point
        return super().fit_transform(X, y)

    def _load(self, **options):
        backbone = copy.copy(super()._load(**options))
        embed = backbone.embed_images

        def logged(images, batch_size):
            time.sleep(0.1)  # leaves the other process the time to do the same work
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {len(images)}\n")
            return embed(images, batch_size)

        backbone.embed_images = logged
        return backbone


def test_grid_search_with_two_processes_embeds_each_image_once(clip_name, images, y, tmp_path):
    log = tmp_path / "log"
    model = make_pipeline(
        CountingEncoder(clip_name, CONCEPTS, batch_size=4, log=str(log)), LogisticRegression()
    )
    grid = {"logisticregression__C": [0.1, 10.0]}
    search = GridSearchCV(model, grid, cv=5, n_jobs=2, refit=False, error_score="raise")
    search.fit(images, y)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sum(int(count) for _, count in lines) == 20
    assert str(os.getpid()) not in {pid for pid, _ in lines}


def test_stored_images_are_not_opened(fakes, images, tmp_path, monkeypatch):
    paths = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    encoder = ConceptEncoder("one", CONCEPTS).fit(paths)
    expected = np.asarray(encoder.transform(paths))
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("an image was opened"))
    np.testing.assert_array_equal(np.asarray(encoder.transform(paths)), expected)


def test_work_before_a_failure_is_kept(fakes, images, monkeypatch):
    encoder = ConceptEncoder("one", CONCEPTS, batch_size=5, device="cpu").fit(images)
    with pytest.raises(InputError, match="image 17 "):
        encoder.transform([*images[:17], b"no image", *images[18:]])
    before = fakes["one"].images_embedded
    assert before == 15
    encoder.transform(images)
    assert fakes["one"].images_embedded == 20


def test_cache_folder_is_the_one_named(fakes, images, tmp_path, cache):
    ConceptEncoder("one", CONCEPTS, cache_dir=tmp_path / "mine").fit_transform(images)
    assert any((tmp_path / "mine").rglob("*.safetensors"))
    assert not cache.exists()
    found, _ = EmbeddingStore(tmp_path / "mine").get(fakes["one"].fingerprint, ["nothing"])
    assert not found[0]


# Missing rows


def test_missing_images_are_nan_rows_and_warn_once(fakes, images):
    encoder = ConceptEncoder("one", CONCEPTS, on_error="missing").fit(images)
    expected = np.asarray(encoder.transform(images))
    X = list(images)
    X[2], X[5], X[9], X[11] = None, b"damaged", "no/such.png", b"damaged"
    with pytest.warns(SkmoecbmWarning, match=r"^4 image\(s\).*the first: image 2 ") as caught:
        features = encoder.transform(X)
    assert len(caught) == 1
    present = np.array([i not in (2, 5, 9, 11) for i in range(20)])
    np.testing.assert_array_equal(features.blocks[0].present, present)
    np.testing.assert_array_equal(np.asarray(features)[present], expected[present])
    assert np.isnan(np.asarray(features)[~present]).all()
    with pytest.warns(SkmoecbmWarning):
        nothing = encoder.transform([None, None])
    assert np.isnan(np.asarray(nothing)).all()
    with pytest.raises(InputError, match=r"image 2 .*on_error='missing'"):
        encoder.set_params(on_error="raise").transform(X)


def test_float_images_need_a_value_range_even_when_errors_are_forgiven(fakes):
    X = [np.full((4, 4), 0.5)]
    encoder = ConceptEncoder("one", CONCEPTS, on_error="missing").fit(X)
    with pytest.raises(InputError, match="value_range"):
        encoder.transform(X)
    narrow = np.asarray(encoder.set_params(value_range=(0, 1)).transform(X))
    wide = np.asarray(encoder.set_params(value_range=(0, 100)).transform(X))
    assert not np.allclose(narrow, wide)


# Reports instead of images


def test_reports_are_compared_in_the_text_tower(fakes):
    X = ["a red spot", None, "nothing", np.nan, "  ", pd.NA, "a red spot"]
    encoder = ConceptEncoder("one", CONCEPTS, modality="text").fit(X)
    features = encoder.transform(X)
    T = encoder.concept_embeddings_
    expected = np.array([fake_text_row("a red spot"), fake_text_row("nothing")]) @ T.T
    np.testing.assert_allclose(np.asarray(features)[[0, 2, 6]], expected[[0, 1, 0]], atol=1e-6)
    assert features.blocks[0].present.tolist() == [True, False, True, False, False, False, True]
    calls = len(fakes["one"].text_calls)
    encoder.transform(pd.Series(X))
    encoder.transform(pd.DataFrame({"report": X}))
    assert len(fakes["one"].text_calls) == calls


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a report", "sequence of texts, got str"),
        ([], "0 texts"),
        (["a", 3], "text 1 must be a str"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "one column of texts"),
        (7, "sequence of texts, got int"),
    ],
)
def test_bad_reports(fakes, X, message):
    with pytest.raises(InputError, match=message):
        ConceptEncoder("one", CONCEPTS, modality="text").fit(X)


# A small lexicon


def test_unknown_concepts_are_dropped_with_one_warning(fakes, images, recwarn):
    bank = ConceptBank(
        name="x",
        classes=[{"key": "mel"}],
        concepts=[
            {"text": "Red"},
            {"text": "scaly", "phrases": ["crusted"]},
            {"text": "ring", "phrases": ["circular", "annular"]},
            {"text": "halo"},
            {"text": "veil", "backbones": ["other-model"]},
        ],
    )
    with pytest.warns(SkmoecbmWarning, match=r"2 of 5 .*'demo'.*'scaly', 'halo'\.") as caught:
        encoder = ConceptEncoder("demo", bank).fit(images)
    assert len(caught) == 1
    assert encoder.bank_.texts == ["Red", "ring"]
    expected = [mean_unit(["Red"]), mean_unit(["circular"])]
    np.testing.assert_allclose(encoder.concept_embeddings_, expected, atol=1e-6)
    assert encoder.class_embeddings_ is not None
    assert encoder.notice_ == "fake"
    # the same bank for a model of free text: every concept, every phrase
    assert ConceptEncoder("one", bank).fit(images).n_concepts_ == 5
    assert not recwarn.list


def test_many_unknown_concepts_are_counted_and_the_warning_holds_them_all(fakes, images):
    unknown = [f"strange {number}" for number in range(200)]
    with pytest.warns(UnknownConceptsWarning) as caught:
        ConceptEncoder("demo", {"mel": ["red", *unknown]}).fit(images)
    (warning,) = (one.message for one in caught)
    assert warning.concepts == tuple(unknown)
    assert (warning.backbone, warning.n_concepts) == ("demo", 201)
    text = str(warning)
    assert "200 of 201 concepts" in text and "'strange 2' and 197 more" in text
    assert "strange 3'" not in text and len(text) < 400


def test_concepts_reserved_for_other_small_models_go_in_silence(fakes, images, recwarn):
    bank = ConceptBank(
        name="x",
        classes=[{"key": "melanoma"}],
        concepts=[{"text": "red"}, {"text": "veil", "backbones": ["demo-two"]}],
    )
    encoder = ConceptEncoder("demo-one", bank).fit(images)
    assert encoder.bank_.texts == ["red"]
    assert encoder.class_embeddings_ is None  # an unknown name is a random direction
    assert not recwarn.list
    with pytest.raises(InputError, match=r"knows none of the 1 concepts.*load_concepts"):
        ConceptEncoder("demo-one", ["veil"]).fit(images)


# Selection


def test_select_keeps_the_top_concepts(fakes, images):
    labels = np.array([int(image[..., 0].mean() > 127) for image in images])
    encoder = ConceptEncoder("one", CONCEPTS, select=TopKConcepts(1, per_class=False))
    encoder.fit(images, labels)
    X = fakes["one"].embed_images([Image.fromarray(image) for image in images])
    T = np.array([mean_unit([text]) for text in ("red", "blue-white veil", "round", "brown")])
    best = int(TopKConcepts(1, per_class=False).fit(X, labels, T).support_[0])
    assert encoder.bank_.texts == [["red", "blue-white veil", "round", "brown"][best]]
    assert encoder.concept_embeddings_.shape == (1, DIM)
    assert encoder.select_.support_.tolist() == [best]
    assert encoder.transform(images).shape == (20, 1)
    encoder.set_params(select__k=3)
    assert encoder.fit(images, labels).n_concepts_ == 3
    with pytest.raises(InputError, match="needs labels"):
        encoder.fit(images)


# Bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"modality": "audio"}, "'modality' parameter of ConceptEncoder must be one of 'image'"),
        ({"resize": "zoom"}, "'resize' parameter of ConceptEncoder"),
        ({"batch_size": "automatic"}, "integer of at least 1, or 'auto'. Got 'automatic'"),
        ({"value_range": (1, 0)}, "'value_range' parameter of ConceptEncoder must be None or two"),
        ({"precision": "fp8"}, "'precision' parameter"),
        ({"on_error": "ignore"}, "'on_error' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter.*at least 1"),
        ({"verbose": -1}, "'verbose' parameter"),
        ({"templates": "a {}"}, "'templates' parameter.*nothing else: it names no prompts"),
        ({"select": "mi"}, "'select' parameter of ConceptEncoder must be None or a selector"),
        ({"select": SubmodularSelector}, "'select' parameter of ConceptEncoder"),
        ({"templates": ["a"]}, "'templates' parameter"),
        ({"cache_dir": 3}, "'cache_dir' parameter"),
        ({"device": "abacus"}, "'device' parameter"),
        ({"backbone": object()}, "'backbone' parameter of ConceptEncoder must be the name"),
        ({"concepts": "no-bank"}, "no bundled bank 'no-bank'"),
        ({"concepts": {"a": ["x", ""]}}, "empty phrase"),
    ],
)
def test_bad_parameters_are_told_in_fit(fakes, images, parameters, message):
    encoder = ConceptEncoder("one", CONCEPTS).set_params(**parameters)
    with pytest.raises(InputError, match=message):
        encoder.fit(images)


def test_bad_data_is_told(fakes, images, y):
    encoder = ConceptEncoder("one", CONCEPTS)
    with pytest.raises(InputError, match="20 images and 19 labels"):
        encoder.fit(images, y[:-1])
    with pytest.raises(InputError, match="0 images"):
        encoder.fit([])
    with pytest.raises(InputError, match="Wrap it in a list"):
        encoder.fit("picture.png")
    encoder.fit(images, y)
    with pytest.raises(InputError, match="0 images"):
        encoder.transform([])


def test_unknown_backbone_is_told(images):
    with pytest.raises((InputError, BackboneError), match="no-such-model"):
        ConceptEncoder("no-such-model", CONCEPTS).fit(images)


def test_model_that_changed_since_fit_is_refused(fakes, images):
    encoder = ConceptEncoder("one", CONCEPTS).fit(images)
    encoder.transform(images)
    encoder.set_params(backbone="two").embed_images(images)
    fakes["two"].identity = {**fakes["one"].identity, "model": "two"}
    encoder.transform(images)  # the same weights under another name
    fakes["two"].identity = {**fakes["two"].identity, "weights_sha256": "1"}
    told = r"than 'two' is now: model \('one' was recorded, 'two' is here\); weights \(sha256 "
    with pytest.raises(InputError, match=told):
        encoder.transform(images)
    encoder.set_params(backbone="one")
    fakes["one"].identity = {**fakes["one"].identity, "precision": "bf16"}
    encoder.transform(images)


def test_progress_bar_only_when_asked_and_needed(fakes, images, capsys):
    ConceptEncoder("one", CONCEPTS).fit_transform(images[:5])
    assert capsys.readouterr() == ("", "")
    encoder = ConceptEncoder("one", CONCEPTS, verbose=1).fit(images)
    encoder.transform(images)
    out, err = capsys.readouterr()
    assert out == ""
    assert "15/15" in err
    encoder.transform(images)
    assert capsys.readouterr().err == ""


# Real networks


def test_real_network_end_to_end(clip_name, images, tmp_path):
    encoder = ConceptEncoder(clip_name, CONCEPTS, cache_dir=tmp_path / "a")
    features = encoder.fit_transform(images)
    assert features.expert_names == ("tiny clip",)
    array = np.asarray(features)
    assert np.isfinite(array).all()
    encoder.set_params(cache_dir=tmp_path / "b", batch_size=3)
    rows = np.vstack([encoder.transform([image]) for image in images])
    np.testing.assert_allclose(rows, array, atol=1e-6)
    with pytest.raises(InputError, match=r"preprocessing.resize_mode \('shortest' was recorded"):
        encoder.set_params(resize="pad").transform(images)
    padded = np.asarray(encoder.fit(images).transform(images))
    assert np.abs(padded - array).max() > 1e-3


def test_real_photographs(clip_name, data_dir):
    paths = sorted(Path(data_dir, "ham10000_fullsize").glob("**/*.jpg"))[:12]
    films = sorted(Path(data_dir, "chestxray14_1000").glob("**/*.png"))[:12]
    encoder = ConceptEncoder(clip_name, CONCEPTS, resize="squash").fit(paths)
    for X in (paths, films):
        values = np.asarray(encoder.transform(X))
        assert np.isfinite(values).all()
        assert np.ptp(values, axis=0).min() > 0


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_jpegs_are_decoded_whole(data_dir, resize):
    paths = sorted(Path(data_dir, "ham10000_fullsize").glob("**/*.jpg"))[::5]
    backbone = load_backbone("demo-structures", resize=resize)
    full = backbone.embed_images([load_image(path) for path in paths])
    encoder = ConceptEncoder("demo-structures", ["globules"], resize=resize)
    rows = encoder.fit_transform(paths).blocks[0].embeddings
    np.testing.assert_allclose(rows, full, atol=1e-5)
    smaller = backbone.embed_images([load_image(path, draft_size=64) for path in paths])
    assert np.sum(full * smaller, axis=1).min() < 1 - 1e-3  # why


# Decoding ahead


@pytest.fixture
def three_decoders(monkeypatch):
    monkeypatch.setattr("skmoecbm._encoder_rows.n_decoders", lambda: 3)
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("skmoecbm-ahead")]


@pytest.mark.usefixtures("three_decoders")
def test_images_decoded_ahead_give_the_same_rows(clip_name, monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8) for i in range(9)]
    images[4] = None
    options = {"device": "cpu", "batch_size": 4, "cache_dir": None, "on_error": "missing"}

    def rows():
        with pytest.warns(SkmoecbmWarning, match=r"image 4 \(None\)"):
            return ConceptEncoder(clip_name, CONCEPTS, **options).embed_images(images)[0]

    ahead = rows()
    skmoecbm.store.EmbeddingStore(None).clear()
    monkeypatch.setattr("skmoecbm._encoder_rows.n_decoders", lambda: 0)
    np.testing.assert_allclose(ahead, rows(), atol=1e-6)
    assert np.isnan(ahead[4]).all()
    assert np.isfinite(np.delete(ahead, 4, axis=0)).all()


@pytest.mark.usefixtures("three_decoders")
def test_the_next_images_are_decoded_while_the_network_works(fakes, images, monkeypatch):
    """The network does not end its first pass before an image of the second is ready."""
    encoder = ConceptEncoder("one", CONCEPTS, batch_size=4, device="cpu").fit(images)
    ready = threading.Event()
    shaped, overlapped = [], []
    original = FakeBackbone.embed_images

    def shape(self, image):
        shaped.append(image)
        if len(shaped) > 4:
            ready.set()
        return image

    def embed(self, batch, batch_size=32):
        overlapped.append(ready.wait(20))
        return original(self, batch, batch_size)

    monkeypatch.setattr(FakeBackbone, "shape", shape)
    monkeypatch.setattr(FakeBackbone, "embed_images", embed)
    encoder.transform(images)
    assert overlapped == [True] * 5


@pytest.mark.usefixtures("three_decoders")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_stops_encoding_leaves_no_thread_and_keeps_what_is_done(
    fakes, images, monkeypatch, error
):
    encoder = ConceptEncoder("one", CONCEPTS, batch_size=4, device="cpu").fit(images)
    original = FakeBackbone.embed_images

    def embed(self, batch, batch_size=32):
        if len(self.image_calls) == 2:
            raise error
        return original(self, batch, batch_size)

    monkeypatch.setattr(FakeBackbone, "embed_images", embed)
    with pytest.raises(error):
        encoder.transform(images)
    monkeypatch.setattr(FakeBackbone, "embed_images", original)
    encoder.transform(images)
    assert fakes["one"].images_embedded == len(images)


@pytest.mark.usefixtures("three_decoders")
def test_an_unreadable_image_is_told_with_its_row_and_leaves_no_thread(fakes, images):
    images = [*images[:11], b"nonsense", *images[11:]]
    encoder = ConceptEncoder("one", CONCEPTS, batch_size=4)
    with pytest.raises(InputError, match=r"image 11 \(<8 bytes>\) cannot be read"):
        encoder.fit_transform(images)


def test_batch_size_auto_is_the_models_choice_and_other_words_are_refused(fakes, images):
    encoder = ConceptEncoder("one", CONCEPTS, batch_size="auto").fit(images)
    encoder.transform(images * 2)
    assert fakes["one"].image_calls == [20]
    with pytest.raises(InputError, match="'batch_size' parameter of ConceptEncoder"):
        encoder.set_params(batch_size="most").fit(images)


def test_a_gpu_gets_several_passes_at_once(monkeypatch, tmp_path):
    """So that rows are fetched, which waits for the device, once in four passes."""
    backbone = FakeBackbone("one")
    images = [np.full((6, 8, 3), i, dtype=np.uint8) for i in range(50)]
    options = {"value_range": None, "on_error": "raise", "batch_size": 5, "verbose": False}
    for device, calls in (("cpu", [5] * 10), ("cuda:0", [20, 20, 10])):
        backbone.image_calls.clear()
        store = EmbeddingStore(tmp_path / device[:4])
        skmoecbm._encoder_rows.image_rows(backbone, store, images, device=device, **options)
        assert backbone.image_calls == calls
