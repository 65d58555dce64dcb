import json

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    FormatError,
    InputError,
    calibrate_sets,
    explain,
    load,
    predict_set,
    save,
    tune_thresholds,
)
from skmoecbm.moe import (
    Balancing,
    MiniBatches,
    MultiTimeAttention,
    SparseMoEClassifier,
    pack_series,
)
from skmoecbm.moe._network import SparseNetwork, tensor_shapes
from tests import model_mutations
from tests.moe.test_sparse import MODALITIES, small, three

QUICK = MiniBatches(max_epochs=3)


@pytest.fixture(scope="module")
def rows():
    return three(150, 0, 0.3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"router": "per_modality", "gating": "laplace", "noise": True},
        {"router": "disjoint", "missing": "learned", "balancing": Balancing(z_loss=0.1)},
        {"modalities": "auto", "top_k": 4, "n_experts": 4},
        {"modalities": [("a", [0, 3]), ("b", slice(5, 9))], "class_weight": "balanced"},
        {"target_prevalence": {0: 0.5, 1: 0.3, 2: 0.2}},
    ],
)
@pytest.mark.filterwarnings("ignore:.*have no modality at all")
def test_a_loaded_model_is_the_one_that_was_saved(rows, settings, tmp_path):
    X, y = rows
    if settings.get("modalities") == "auto":
        X = np.nan_to_num(X)
    settings = {"modalities": MODALITIES, "training": QUICK} | settings
    clf = small(**settings).fit(X, y)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert np.array_equal(again.routing_weights(X), clf.routing_weights(X))
    assert repr(again) == repr(clf)
    for name in ("history_", "n_iter_", "modality_names_", "training_summary_", "network_shape_"):
        assert getattr(again, name) == getattr(clf, name), name
    assert again.weights_.keys() == clf.weights_.keys()
    for name, value in clf.weights_.items():
        assert np.array_equal(again.weights_[name], value) and value.dtype == np.float64
    save(again, tmp_path / "twice")
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert np.array_equal(again.fit(X, y).predict_proba(X), clf.predict_proba(X))


def test_the_last_step_of_a_pipeline_is_saved_with_it(rows, tmp_path):
    X, y = rows
    labels = np.array(["nv", "mel", "bcc"])[y]
    model = make_pipeline(StandardScaler(), small(modalities=MODALITIES, training=QUICK))
    model.fit(X, labels)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.predict(X).tolist() == model.predict(X).tolist()
    assert np.array_equal(explain(again, X).weights, explain(model, X).weights)


def test_sets_and_thresholds_are_kept(rows, tmp_path):
    X, y = rows
    clf = small(modalities=MODALITIES, training=QUICK)
    one = calibrate_sets(clf.fit(X[:75], y[:75]), X[75:], y[75:])
    save(one, tmp_path / "one")
    assert np.array_equal(predict_set(load(tmp_path / "one"), X), predict_set(one, X))
    labels = np.c_[y == 0, y > 1].astype(int)
    many = tune_thresholds(clf.fit(X, labels), X, labels, cv="prefit")
    save(many, tmp_path / "many")
    again = load(tmp_path / "many")
    assert np.array_equal(again.thresholds_, many.thresholds_)
    assert np.array_equal(again.predict(X), many.predict(X))


@pytest.mark.filterwarnings("ignore:.*have no modality at all")
def test_what_only_training_needs_may_be_left_out(rows, tmp_path):
    X, y = rows
    training = MiniBatches(max_epochs=2, validation_fraction=ShuffleSplit(1, random_state=0))
    clf = small(modalities={"a": np.arange(5), "b": np.arange(5, 10)}, training=training).fit(X, y)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"]["not_saved"]
    assert again.training is None and again.modality_names_ == ["a", "b"]


def test_the_card_tells_what_it_is(rows, tmp_path):
    X, y = rows
    save(small(modalities=MODALITIES, training=QUICK).fit(X, y), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "sends each row to 2 of 4 small networks of 8 hidden units" in card
    assert "`image`, `text`, `table`" in card and "## Concepts" not in card
    assert "mixture-of-experts" in card and "concept-bottleneck" not in card.split("---")[1]


def test_the_card_tells_which_columns_are_which_modality(rows, tmp_path):
    X, y = rows
    names = [f"b{j}" for j in range(len(X[0]) + 15)]
    table = pd.DataFrame(np.hstack([X, np.tile(X[:, 10:], 3)]), columns=names)
    blocks = {"one": "b3", "many": names[10:], "two": ["b0", "b1"]}
    clf = small(modalities=blocks, training=QUICK).fit(table, y)
    save(clf, tmp_path / "named")
    card = (tmp_path / "named" / "README.md").read_text()
    lines = card.splitlines()
    assert "It takes a table of 30 columns:" in lines
    assert "- `one`: column `b3`" in lines and "- `two`: columns `b0`, `b1`" in lines
    told = next(line for line in lines if line.startswith("- `many`: columns `b10`, `b11`"))
    assert told.count("`") == 2 * len(names[10:]) + 2 and "more" not in told
    assert "rows that have a modality: `one`" in card and "expert saw" not in card


def test_the_card_tells_how_series_were_packed(tmp_path):
    rng = np.random.default_rng(0)
    series = [(rng.uniform(0, 9, 3), rng.standard_normal((3, 2))) for _ in range(60)]
    X = np.hstack([rng.standard_normal((60, 40)), pack_series(series, n_slots=4)])
    clf = small(
        modalities={"scan": list(range(0, 40, 2)), "vitals": slice(40, None), "odd": [1]},
        time_series={"vitals": MultiTimeAttention(n_points=2, n_variables=2)},
        training=QUICK,
    ).fit(X, rng.integers(0, 2, 60))
    save(clf, tmp_path / "model")
    lines = (tmp_path / "model" / "README.md").read_text().splitlines()
    assert (
        "- `vitals`: 20 columns, from column 41 on: a time series of 2 variables in 4 slots, as "
        "`pack_series(series, n_slots=4)` writes it"
    ) in lines
    assert "- `odd`: column 2" in lines
    plain = small(modalities={"a": slice(0, 30)}, training=QUICK).fit(X, np.arange(60) % 2)
    save(plain, tmp_path / "plain")
    assert "- `a`: columns 1 to 30" in (tmp_path / "plain" / "README.md").read_text().splitlines()


def test_columns_beyond_some_dozens_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 60)), rng.integers(0, 2, 40)
    save(small(modalities={"a": list(range(0, 60, 2))}, training=QUICK).fit(X, y), tmp_path)
    assert "45, 47, and 6 more\n" in (tmp_path / "README.md").read_text()


def test_shapes_are_those_of_the_network_itself(rows):
    X, y = rows
    for router in ("joint", "per_modality", "disjoint"):
        clf = small(router=router, modalities=MODALITIES, training=QUICK, noise=True).fit(X, y)
        found = SparseNetwork(clf.network_shape_).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in found.items()}
        assert tensor_shapes(clf.network_shape_) == expected
        assert {name: value.shape for name, value in clf.weights_.items()} == expected


@pytest.mark.parametrize(
    ("array", "change", "told"),
    [
        ("model.network.head", lambda a: a * np.nan, "not finite"),
        ("model.network.pools.0.w1", lambda a: a + 1e31, "beyond"),
        ("model.network.log_voice", lambda a: a + 1e3, "logarithms"),
        ("model.network.routers.0.log_sharpness", lambda a: a + 1e3, "logarithms"),
        ("model.network.linear", lambda a: a[:, 1:], "shape"),
        ("model.network.head", lambda a: a.astype(np.float32), "float64"),
        ("model.modalities.1.scale", lambda a: 0 * a, "positive"),
        ("model.modalities.1.concept_quantiles", lambda a: a[:, ::-1], "fall"),
        ("model.class_log_prior", None, "needs an array"),
        ("model.modalities.1.concept_quantiles", None, "is missing"),
        ("model.network.more", lambda a: np.zeros(3), "more"),
    ],
)
def test_arrays_that_belong_to_no_model_are_refused(rows, array, change, told, tmp_path):
    X, y = rows
    clf = small(modalities=MODALITIES, gating="laplace", training=QUICK).fit(X, y)
    save(clf, tmp_path)
    names = ("config.json", "model.safetensors")
    files = {name: (tmp_path / name).read_bytes() for name in names}
    arrays = model_mutations.read_arrays(files["model.safetensors"])
    if change is None:
        del arrays[array]
    else:
        arrays[array] = np.array(change(arrays.get(array)), order="C")
    for name, content in model_mutations.with_arrays(files, arrays).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=told):
        load(tmp_path)


def test_what_is_not_fitted_is_not_saved(tmp_path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        save(SparseMoEClassifier(), tmp_path / "model")
    with pytest.raises(InputError, match="cannot be saved"):
        save(MiniBatches(), tmp_path / "model")


def test_what_is_left_out_stays_left_out(rows, tmp_path):
    X, y = rows
    clf = small(modalities=MODALITIES, training=QUICK).fit(X, y)
    view = clf.without("text")
    save(view, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.masked_modalities_ == ("text",)
    assert "Switched off: `text`." in (tmp_path / "model" / "README.md").read_text()
    rows = np.flatnonzero(~np.isnan(X[:, 0]))
    assert np.array_equal(again.predict_proba(X[rows]), view.predict_proba(X[rows]))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for masked in (["sound"], ["image", "text", "table"], ["text", "text"]):
        config["model"]["masked_modalities"] = masked
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        with pytest.raises(FormatError, match="masked_modalities"):
            load(tmp_path / "model")
