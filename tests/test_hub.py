import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from sklearn.cluster import Birch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import skmoecbm
from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    FormatError,
    GatedConceptBottleneckClassifier,
    InputError,
    SkmoecbmWarning,
    evaluate,
    explain,
    load,
    save,
)
from skmoecbm.concepts import TopKConcepts
from skmoecbm.datasets import make_lesions
from skmoecbm.hub import read_config
from tests.brute_force import make_table

EXPERTS = [("left", slice(0, 3)), ("right", [3, 4, 5, 6])]


def _data(n=80, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    X = rng.normal(size=(n, 7)) + rng.normal(size=(n_classes, 7))[y]
    return X, y


@pytest.fixture(scope="module")
def lesions():
    data = make_lesions(140, random_state=0)
    return list(data.images), np.asarray(data.target)


@pytest.fixture(scope="module")
def pipeline(lesions):
    union = ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", "lesions", cache_dir=None)),
            ("structures", ConceptEncoder("demo-structures", "lesions", cache_dir=None)),
        ]
    )
    model = Pipeline(
        [("experts", union), ("classifier", GatedConceptBottleneckClassifier(random_state=0))]
    )
    return model.fit(*lesions)


@pytest.fixture(scope="module")
def mixture():
    return GatedConceptBottleneckClassifier(experts=EXPERTS, random_state=0).fit(*_data())


@pytest.fixture
def saved(mixture, tmp_path):
    """Return the folder of a small saved mixture and the mixture."""
    save(mixture, tmp_path / "model")
    return tmp_path / "model", mixture


def _same_outputs(a, b, X):
    for method in ("predict", "predict_proba", "decision_function"):
        one, other = getattr(a, method)(X), getattr(b, method)(X)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_pipeline_predicts_explains_and_evaluates_after_loading(pipeline, lesions, tmp_path):
    images, y = lesions
    save(pipeline, tmp_path / "model")
    again = load(tmp_path / "model")
    _same_outputs(pipeline, again, images[:40])
    before, after = explain(pipeline, images[:5]), explain(again, images[:5])
    assert before.to_dict() == after.to_dict()
    assert after.notices and "not for clinical use" in after.notices[0]
    assert after.images is not None
    one, two = (evaluate(m, images, y, n_bootstrap=10, random_state=0) for m in (pipeline, again))
    assert one.to_dict() == two.to_dict()
    assert isinstance(again.named_steps["experts"], ExpertUnion)
    encoder = again.named_steps["experts"].named_experts_["general"]
    assert encoder.bank_ == pipeline.named_steps["experts"].named_experts_["general"].bank_
    # refit uses the same parameters and concepts
    again.fit(*lesions)
    _same_outputs(pipeline, again, images[:10])


def test_encoder_alone_round_trips_with_selection_and_pandas_output(lesions, tmp_path):
    images, y = lesions
    encoder = ConceptEncoder(
        "demo-general", "lesions", select=TopKConcepts(2), cache_dir=None, value_range=(0, 1)
    )
    encoder.set_output(transform="pandas").fit(images, y)
    save(encoder, tmp_path / "model")
    again = load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.transform(images[:5]), encoder.transform(images[:5]))
    assert again.value_range == (0, 1)
    assert again.select.k == 2
    # the constructor's bank is the whole one: fitting again can choose others
    assert len(skmoecbm.load_concepts("lesions")) == len(again.concepts) > again.n_concepts_


def test_saved_twice_is_byte_identical_and_so_is_a_loaded_model(saved, tmp_path):
    folder, model = saved
    save(model, tmp_path / "again")
    save(load(folder), tmp_path / "loaded")
    for name in ("config.json", "model.safetensors", "README.md"):
        content = (folder / name).read_bytes()
        assert content == (tmp_path / "again" / name).read_bytes()
        assert content == (tmp_path / "loaded" / name).read_bytes()


@pytest.mark.parametrize("umask, rights", [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600))])
def test_files_have_the_rights_of_any_new_file_and_there_is_nothing_else(
    saved, tmp_path, umask, rights
):
    folder = tmp_path / "model"
    before = os.umask(umask)
    try:
        save(saved[1], folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == rights[0]
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {rights[1]}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "there",
    [
        {"config.json": b'{"architectures": ["BertModel"]}', "model.safetensors": b"weights"},
        {"config.json": b"[1, 2]"},
        {"config.json": b'{"a": '},
        {"README.md": b"mine"},
    ],
)
def test_a_model_of_another_library_is_not_replaced(saved, tmp_path, there):
    """Their files have the names of ours."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, content in there.items():
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"may be of another library\. Choose a new folder"):
        save(saved[1], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == there


def test_no_path_group_file_name_or_training_row_is_in_the_folder(lesions, tmp_path):
    from PIL import Image

    images, y = lesions
    secret = tmp_path / "ward-seven"
    secret.mkdir()
    paths = []
    for i, image in enumerate(images[:60]):
        paths.append(secret / f"patient-{i:04}.png")
        Image.fromarray(image).save(paths[-1])
    union = ExpertUnion(
        [
            (name, ConceptEncoder(f"demo-{name}", "lesions", cache_dir=secret / "cache"))
            for name in ("general", "structures")
        ]
    )
    features = union.fit_transform(paths)
    groups = [f"lesion-{i // 2}" for i in range(60)]
    y = np.where(np.arange(60) % 2 == 0, "benign", "malignant")
    head = ConceptBottleneckClassifier(prior=None)
    classifier = GatedConceptBottleneckClassifier(head).fit(features, y, groups=groups)
    save(Pipeline([("experts", union), ("classifier", classifier)]), tmp_path / "model")
    content = b"".join(p.read_bytes() for p in sorted((tmp_path / "model").iterdir()))
    for word in ("ward-seven", "patient-", "lesion-", str(tmp_path), ".png"):
        assert word.encode() not in content, word
    assert classifier.oof_logits_[:, :, 1].all()
    rows = [*np.asarray(features), *features.blocks[0].embeddings, *classifier.oof_logits_[:, :, 1]]
    for row in rows:
        for dtype in (np.float32, np.float64):
            assert row[:2].astype(dtype).tobytes() not in content
    assert load(tmp_path / "model").named_steps["experts"].experts_[0][1].cache_dir == "auto"


def test_card_warns_and_carries_the_notice(pipeline, tmp_path):
    save(pipeline, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Not a medical device" in card
    assert "synthetic demonstration encoders, trained on drawings, not for clinical use" in card
    assert "`mel-like`" in card
    assert "demo-general" in card


def test_hostile_class_names_stay_text_in_the_card(tmp_path):
    X, y = _data(n_classes=2)
    names = np.array(["<script>alert(1)</script>", "a`b\n# heading"])
    save(ConceptBottleneckClassifier(alpha=1.0).fit(X, names[y]), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "<script>" not in card
    assert "\n# heading" not in card
    assert load(tmp_path / "model").classes_.tolist() == sorted(names.tolist())


def test_label_map_and_notices_are_read_back(pipeline, tmp_path):
    save(pipeline, tmp_path / "model", label_map={"M": "mel-like", "N": "nv-like"})
    config = read_config(tmp_path / "model")
    assert config.label_map == {"M": "mel-like", "N": "nv-like"}
    assert "not for clinical use" in config.notices[0]
    with pytest.raises(InputError, match="label_map"):
        save(pipeline, tmp_path / "other", label_map={"M": [1]})
    assert not (tmp_path / "other").exists()


def test_saving_again_replaces_the_model_and_nothing_else(saved, tmp_path):
    folder, model = saved
    X, y = _data(seed=5)
    other = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    save(other, folder)
    _same_outputs(load(folder), other, X)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not of a saved model \('notes.txt'\)"):
        save(model, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    save(model, tmp_path / "empty")
    with pytest.raises(InputError, match="is a file"):
        save(model, folder / "notes.txt")


@pytest.mark.parametrize("function", ["write_bytes", "rename"])
def test_a_save_that_fails_leaves_the_old_model_as_it_was(saved, monkeypatch, function):
    folder, model = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    real, calls = getattr(Path, function), []

    def fail_late(self, *args, **kwargs):
        calls.append(self)
        # the second of several calls: half-written, or renamed away but not yet in place
        if len(calls) == 2:
            raise OSError("disk full")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, function, fail_late)
    with pytest.raises(OSError, match="disk full"):
        save(model, folder)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_what_is_not_ours_or_not_fitted_is_refused_with_the_reason(tmp_path):
    X, y = _data()
    folder = tmp_path / "model"
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    with pytest.raises(InputError, match="no step of this package"):
        save(scaled, folder)
    with pytest.raises(InputError, match="A LogisticRegression cannot be saved"):
        save(LogisticRegression().fit(X, y), folder)
    with pytest.raises(InputError, match="A Mine cannot be saved"):
        save(type("Mine", (ConceptBottleneckClassifier,), {})(alpha=1.0).fit(X, y), folder)
    union = ExpertUnion([("table", Birch())]).fit(X)
    with pytest.raises(InputError, match="Expert 'table' is a Birch, which has no safe form"):
        save(union, folder)
    with pytest.raises(ValueError, match="not fitted"):
        save(ConceptBottleneckClassifier(), folder)
    with pytest.raises(InputError, match="'folder' parameter of save"):
        save(scaled, None)
    assert not folder.exists()


def test_local_backbone_is_named_not_located_and_can_be_placed_on_load(lesions, tmp_path):
    source = Path(skmoecbm.__file__).parent / "_demo" / "general"
    backbone = f"local-dir:{source}"
    encoder = ConceptEncoder(backbone, "lesions", cache_dir=None)
    union = ExpertUnion([("mine", encoder)]).fit(lesions[0])
    save(union, tmp_path / "model")
    assert str(source.parent) not in (tmp_path / "model" / "config.json").read_text()
    again = load(tmp_path / "model", backbones={"mine": backbone})
    np.testing.assert_array_equal(again.transform(lesions[0][:3]), union.transform(lesions[0][:3]))
    with pytest.raises(skmoecbm.BackboneError):
        load(tmp_path / "model").transform(lesions[0][:3])
    with pytest.raises(
        InputError, match=r"names 'other'; the model's experts with a backbone are \['mine'\]"
    ):
        load(tmp_path / "model", backbones={"other": backbone})


def test_another_backbone_than_was_fitted_is_noticed_when_first_used(pipeline, lesions, tmp_path):
    save(pipeline, tmp_path / "model")
    model = load(tmp_path / "model", backbones={"general": "demo-structures"})
    way_on = r"Expert 'general' was fitted with another model.*backbones=\{'general': \.\.\.\}"
    with pytest.raises(InputError, match=way_on):
        model.predict(lesions[0][:2])


def _edit_config(folder, edit):
    path = folder / "config.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def _edit_arrays(folder, edit, *, trust=True):
    """Change the arrays; with `trust` the hash in config.json is changed along."""
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    edit(arrays)
    path.write_bytes(safetensors.numpy.save(arrays))
    if trust:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        _edit_config(folder, lambda data: data.update(arrays_sha256=digest))


def test_folders_that_are_not_a_model_say_so(tmp_path, saved):
    with pytest.raises(FormatError, match="There is no folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"is not a saved model: it has no config.json"):
        load(tmp_path / "empty")
    with pytest.raises(FormatError, match="is a file; a saved model is a folder"):
        load(saved[0] / "config.json")
    with pytest.raises(InputError, match="'source' parameter of load"):
        load(3)
    (saved[0] / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has no model.safetensors"):
        load(saved[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d.update(format_version=2),
            "format version 2, which needs skmoecbm 0.1 or newer",
        ),
        (lambda d: d.pop("format_version"), "no 'format_version'"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["model"].update(kind="os.system"), "kind|os.system"),
        (
            lambda d: d["model"]["parameters"].update(gate={"$object": "Popen", "parameters": {}}),
            "asks for an object 'Popen'",
        ),
        (lambda d: d["model"]["parameters"].update(surprise=1), "parameter 'surprise'"),
        (lambda d: d["model"]["parameters"].update(pool="shell"), "'pool' parameter"),
        (lambda d: d["model"]["parameters"].update(experts={"$slice": ["a", 1, 2]}), "slice"),
        (lambda d: d["model"]["heads"].pop(), "expert_columns do not fit"),
        (lambda d: d["model"]["expert_columns"][0].__setitem__(0, 5), "are not distinct features"),
        (lambda d: d["model"]["classes"].update(values=[1, 1, 2]), "labels must differ"),
        (lambda d: d["model"]["classes"].update(dtype="|V8"), "dtype"),
        (lambda d: d["model"].update(alpha=True), "alpha"),
        (lambda d: d["arrays"].pop("model.pool_scale"), "does not list"),
        (lambda d: d["arrays"]["model.pool_scale"].update(shape=[3]), "must have an array"),
        (lambda d: d["arrays"]["model.pool_scale"].update(dtype="float32"), "must have an array"),
        (lambda d: d["arrays"]["model.pool_scale"].update(dtype="object"), "dtype"),
    ],
)
def test_changed_config_ends_in_a_format_error(saved, edit, message):
    _edit_config(saved[0], edit)
    with pytest.raises(FormatError, match=message):
        load(saved[0])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"[1, 2]", b'{"a": NaN}'])
def test_config_that_is_not_json_ends_in_a_format_error(saved, content):
    (saved[0] / "config.json").write_bytes(content)
    with pytest.raises(FormatError):
        load(saved[0])


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_arrays_end_in_a_format_error(saved, cut):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match="cut short, damaged or replaced"):
        load(saved[0])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _edit_config(saved[0], lambda data: data.update(arrays_sha256=digest))
    with pytest.raises(FormatError, match="not a safetensors file"):
        load(saved[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("model.heads.0.scale"), "Got nothing"),
        (lambda a: a.update(more=np.zeros(2)), "does not list"),
        (lambda a: a.update({"model.pool_scale": np.ones(3)}), r"shape \(2,\). Got"),
        (lambda a: a.update({"model.pool_scale": np.array([1, np.nan])}), "not finite"),
        (lambda a: a.update({"model.heads.0.scale": np.zeros(3)}), "must be positive"),
    ],
)
def test_changed_arrays_end_in_a_format_error(saved, edit, message):
    _edit_arrays(saved[0], edit)
    with pytest.raises(FormatError, match=message):
        load(saved[0])


def test_array_that_the_model_does_not_use_is_refused(saved):
    _edit_arrays(saved[0], lambda arrays: arrays.update(more=np.zeros(2)))
    _edit_config(saved[0], lambda d: d["arrays"].update(more={"shape": [2], "dtype": "float64"}))
    with pytest.raises(FormatError, match="'more' that its model does not use"):
        load(saved[0])


def test_a_fingerprint_of_another_backbone_is_refused(pipeline, tmp_path):
    save(pipeline, tmp_path / "model")
    _edit_config(
        tmp_path / "model",
        lambda d: d["model"]["steps"][0]["node"]["experts"][0]["encoder"][
            "backbone_identity"
        ].update(weights_sha256="0" * 64),
    )
    name = pipeline[0].experts_[0][0]
    with pytest.raises(
        FormatError, match=f"fingerprint of expert '{name}' .* fetch it again"
    ) as told:
        load(tmp_path / "model")
    assert str(told.value).count(str(tmp_path / "model")) == 1
    (tmp_path / "model" / "config.json").write_text("{}")
    for read in (load, read_config):
        with pytest.raises(FormatError, match="has no 'format_version'") as told:
            read(tmp_path / "model")
        assert str(told.value).startswith(f"'{tmp_path / 'model'}': config.json")


def test_saved_paths_for_cache_or_backbone_are_refused(pipeline, tmp_path):
    for change in ({"cache_dir": "/tmp/x"}, {"backbone": "local-dir:../../etc"}):
        save(pipeline, tmp_path / "model")
        _edit_config(
            tmp_path / "model",
            lambda d, change=change: d["model"]["steps"][0]["node"]["experts"][0]["encoder"][
                "parameters"
            ].update(change),
        )
        with pytest.raises(FormatError, match="which a saved model may not"):
            load(tmp_path / "model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_raises(saved, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OSError):
        save(saved[1], tmp_path / "other")


def test_all_missing_rows_of_a_loaded_model_are_the_class_prior(saved):
    model = load(saved[0])
    with pytest.warns(SkmoecbmWarning, match="no expert"):
        proba = model.predict_proba(np.full((1, 7), np.nan))
    _, y = _data()
    np.testing.assert_allclose(proba[0], np.bincount(y) / len(y), atol=1e-12)


def test_a_mixture_that_leaves_columns_aside_is_saved(tmp_path):
    X, y = make_table(n=60)
    clf = GatedConceptBottleneckClassifier(experts=[("a", slice(0, 3)), ("b", slice(5, 9))])
    save(clf.fit(X, y), tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(X), clf.predict_proba(X))
