"""Irregular time series: against a loop, against laws, and on series whose timing is the label."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmoecbm import load, save
from skmoecbm.exceptions import InputError
from skmoecbm.moe import MiniBatches, MultiTimeAttention, SparseMoEClassifier, pack_series
from skmoecbm.moe._time_attention import TimeAttention
from skmoecbm.moe._time_series import unpack


def ragged(n, seed, n_variables=2, missing=0.3):
    """Return rows of 1 to 12 measurements at random times, some values of them NaN."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        length = rng.integers(1, 13)
        values = rng.normal(3.0, 2.0, (length, n_variables))
        values[rng.random(values.shape) < missing] = np.nan
        values[0] = rng.normal(size=n_variables)
        rows.append((rng.uniform(0.0, 48.0, length), values))
    return rows


def peaks(n, seed):
    """Return series with a peak at 12 or at 36 of 48 hours, and which it was."""
    rng = np.random.default_rng(seed)
    late = rng.integers(2, size=n)
    rows = []
    for one in late:
        times = rng.uniform(0.0, 48.0, rng.integers(8, 30))
        peak = 3.0 * np.exp(-0.5 * ((times - (36 if one else 12)) / 4.0) ** 2)
        rows.append((times, peak + rng.normal(0.0, 0.5, len(times))))
    return rows, late


def visits(n, seed):
    """Return series whose values say nothing: measured more often early, or late."""
    rng = np.random.default_rng(seed)
    late = rng.integers(2, size=n)
    rows = []
    for one in late:
        times = 48.0 * rng.beta(*((3, 1.5) if one else (1.5, 3)), rng.integers(12, 25))
        rows.append((times, rng.normal(size=len(times))))
    return rows, late


def by_hand(row, fitted, sharpness):
    """Return means and amounts (G, V) of one row, by loops over everything."""
    times, values = row
    first, last = fitted.points_[0], fitted.points_[-1]
    out = np.zeros((len(fitted.points_), values.shape[1], 2))
    for g, point in enumerate(fitted.points_):
        for v in range(values.shape[1]):
            total = mass = amount = 0.0
            for time, value in zip(times, values[:, v], strict=True):
                if np.isnan(value):
                    continue
                gap = (min(max(time, first), last) - point) / (last - first)
                waves = range(1, fitted.n_frequencies + 1)
                weights = [math.exp(-0.5 * (3.0 * f / fitted.n_frequencies) ** 2) for f in waves]
                bump = 0.5 + sum(
                    w * math.cos(math.pi * f * gap) for f, w in zip(waves, weights, strict=True)
                )
                bump /= 0.5 + sum(weights)
                mass += math.exp(sharpness * bump)
                total += math.exp(sharpness * bump) * (value - fitted.means_[v]) / fitted.scales_[v]
                amount += math.exp(sharpness * (bump - 1.0))
            out[g, v] = (total / mass if mass else 0.0), 1.0 - math.exp(-amount)
    return out


def test_against_a_loop():
    rows = ragged(20, 0)
    fitted = MultiTimeAttention(5, sharpness=(6.0, 1.5)).fit(rows)
    grid = fitted.transform(rows).reshape(20, 2, 5, 2, 2)
    for i, row in enumerate(rows):
        for h, sharpness in enumerate((6.0, 1.5)):
            assert np.allclose(grid[i, h], by_hand(row, fitted, sharpness), atol=1e-12)


def test_scales_are_those_of_what_was_measured():
    rows = ragged(50, 1)
    values = np.concatenate([values for _, values in rows])
    fitted = MultiTimeAttention(3).fit(rows)
    assert np.allclose(fitted.means_, np.nanmean(values, axis=0))
    assert np.allclose(fitted.scales_, np.nanstd(values, axis=0))
    times = np.concatenate([times for times, _ in rows])
    assert fitted.points_[0] == times.min() and fitted.points_[-1] == times.max()


def test_laws_of_sharpness():
    """Without any it is the mean of all; with very much of it, the nearest measurement."""
    rows = ragged(30, 2, missing=0.0)
    points = np.linspace(0.0, 48.0, 9)
    flat, sharp = (
        MultiTimeAttention(9, sharpness=s, time_range=(0.0, 48.0)).fit(rows) for s in (0.0, 1e6)
    )
    smooth, nearest = (t.transform(rows).reshape(30, 9, 2, 2)[..., 0] for t in (flat, sharp))
    for i, (times, values) in enumerate(rows):
        values = (values - flat.means_) / flat.scales_
        assert np.allclose(smooth[i], values.mean(axis=0))
        gaps = np.abs(times[:, None] - points)
        order = np.sort(gaps, axis=0)
        clear = len(times) == 1 or order[1] - order[0] > 0.5
        assert np.allclose(nearest[i][clear], values[gaps.argmin(axis=0)][clear], atol=1e-6)


def test_the_bump_is_gaussian_and_the_ends_are_not_neighbours():
    attention = TimeAttention(2, 8, (1.0,))
    times = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    features = attention._features(times)[:, :-1]
    bump = (features @ features[0]).detach().numpy()
    width = 3.0 / (math.pi * 8)
    assert np.allclose(bump, np.exp(-0.5 * (times.numpy() / width) ** 2), atol=0.02)


def test_order_padding_and_other_rows_make_no_difference():
    rows = ragged(15, 3)
    fitted = MultiTimeAttention(6).fit(rows)
    grid = fitted.transform(rows)
    rng = np.random.default_rng(0)
    mixed = []
    for times, values in rows:
        order = rng.permutation(len(times))
        mixed.append((times[order], values[order]))
    assert np.allclose(fitted.transform(mixed), grid, rtol=0, atol=1e-12)
    alone = np.concatenate([fitted.transform([row]) for row in rows])
    assert np.allclose(alone, grid, rtol=0, atol=1e-12)
    packed = pack_series(rows, n_slots=40)
    assert np.allclose(fitted.transform(packed), grid, rtol=0, atol=1e-12)
    block = MultiTimeAttention(6, n_variables=2).fit(packed)
    assert np.allclose(block.transform(rows), grid, rtol=0, atol=1e-12)


def test_packing_and_back():
    rows = [*ragged(10, 4), None]
    times, values, mask = unpack(pack_series(rows), 2)
    for i, row in enumerate(rows[:-1]):
        there = ~np.isnan(row[1])
        used = there.any(axis=1)
        assert np.array_equal(times[i, : used.sum()], row[0][used])
        assert np.array_equal(values[i, : used.sum()][there[used]], row[1][there])
        assert mask[i].sum() == there.sum()
    assert not mask[-1].any()
    assert np.isnan(pack_series(rows)[-1]).all()


def test_masks_and_nan_say_the_same():
    rows = ragged(10, 5)
    masked = [(times, np.nan_to_num(values, nan=99.0), ~np.isnan(values)) for times, values in rows]
    assert np.array_equal(pack_series(rows), pack_series(masked))


def test_a_row_without_measurements_is_missing():
    rows = [*ragged(5, 6), None, (np.array([3.0]), np.array([[np.nan, np.nan]]))]
    fitted = MultiTimeAttention(4).fit(rows)
    grid = fitted.transform(rows)
    assert np.isnan(grid[5:]).all() and not np.isnan(grid[:5]).any()
    assert np.isnan(fitted.transform([None])).all()
    assert fitted.transform([None]).shape == (1, 4 * 2 * 2)


@pytest.mark.parametrize("series", [peaks, visits])
def test_timing_is_the_label(series):
    (rows, y), (others, truth) = series(600, 0), series(600, 1)
    model = make_pipeline(MultiTimeAttention(), LogisticRegression(max_iter=2000)).fit(rows, y)
    # What is usual instead, and blind to time: mean, deviation, number, last value.
    plain = [
        np.array([[v.mean(), v.std(), len(v), v[t.argmax()]] for t, v in some])
        for some in (rows, others)
    ]
    blind = LogisticRegression(max_iter=2000).fit(plain[0], y).score(plain[1], truth)
    assert blind < 0.65  # the last value knows a little
    assert model.score(others, truth) > 0.85


def test_every_parameter_of_the_attention_gets_a_gradient():
    rows = ragged(40, 7)
    fitted = MultiTimeAttention(4, sharpness=(4.0, 1.0)).fit(rows)
    attention = fitted.attention()
    out = attention(*map(torch.as_tensor, fitted.scaled(pack_series([*rows, None]))))
    assert torch.isfinite(out).all()
    weights = torch.linspace(-1.0, 1.0, out[0].numel(), dtype=torch.float64).reshape(out[0].shape)
    (out * weights).sum().backward()
    for name, parameter in attention.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_gradient_against_differences():
    rows = ragged(6, 8)
    fitted = MultiTimeAttention(3, n_frequencies=2).fit(rows)
    attention = fitted.attention()
    given = tuple(map(torch.as_tensor, fitted.scaled(pack_series(rows))))
    names, start = zip(*attention.named_parameters(), strict=True)

    def out(*values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), given)

    start = tuple(value.detach().clone().requires_grad_() for value in start)
    assert torch.autograd.gradcheck(out, start)


def test_what_scikit_learn_expects():
    rows, y = peaks(120, 2)
    search = GridSearchCV(
        make_pipeline(MultiTimeAttention(), LogisticRegression()),
        {"multitimeattention__n_points": [2, 8]},
        cv=3,
    ).fit(rows, y)
    assert search.best_params_["multitimeattention__n_points"] == 8
    fitted = MultiTimeAttention(2).fit(rows)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(rows), fitted.transform(rows))
    assert clone(fitted).get_params() == fitted.get_params()
    assert len(fitted.get_feature_names_out(["pulse"])) == fitted.transform(rows).shape[1]
    assert fitted.get_feature_names_out(["pulse"])[1].startswith("pulse_at_")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "at least one row"),
        ([None], "n_variables="),
        ([[1.0, 2.0, 3.0, 4.0]], "Row 0 of the series must be None, or"),
        ([([0.0, 1.0], [[1.0]])], r"times of shape \(2,\) and values of shape \(1, 1\)"),
        ([([0.0], [["high"]])], "something else than numbers"),
        ([([np.nan], [[1.0]])], "not finite"),
        ([([0.0], [[np.inf]])], "not finite"),
        ([([0.0], [[1.0]], [[2]])], "of 0 and 1"),
        ([([0.0], [[1.0]]), ([0.0], [[1.0, 2.0]])], "same variables. Got 1 and 2"),
        (np.zeros((3, 6)), "Say n_variables="),
        (np.zeros((3, 4, 6)), "must be a list of time series"),
        ("vitals.csv", "must be a list of time series"),
    ],
)
def test_what_is_no_series_is_told(given, told):
    with pytest.raises(InputError, match=told):
        MultiTimeAttention().fit(given)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_points": 0}, "n_points"),
        ({"n_frequencies": 1.5}, "n_frequencies"),
        ({"sharpness": -1.0}, "sharpness"),
        ({"sharpness": ()}, "sharpness"),
        ({"time_range": (3.0, 3.0)}, "time_range"),
        ({"time_range": "day"}, "time_range"),
        ({"n_variables": 5}, "5"),
    ],
)
def test_wrong_parameters_are_told(settings, told):
    with pytest.raises(InputError, match=told):
        MultiTimeAttention(**settings).fit(ragged(5, 0))


def test_blocks_and_slots_that_do_not_fit_are_told():
    rows = ragged(5, 0)
    with pytest.raises(InputError, match="not a multiple of the 7"):
        MultiTimeAttention(n_variables=3).fit(pack_series(rows))
    with pytest.raises(InputError, match="n_slots=2 has no place"):
        pack_series(rows, n_slots=2)
    fitted = MultiTimeAttention().fit(rows)
    with pytest.raises(InputError, match="variables"):
        fitted.transform(ragged(2, 0, n_variables=3))


def fine(n, seed):
    """Return series with a narrow peak at 21 or at 27 hours, and which it was."""
    rng = np.random.default_rng(seed)
    late = rng.integers(2, size=n)
    rows = []
    for one in late:
        times = rng.uniform(0.0, 48.0, rng.integers(20, 30))
        peak = 3.0 * np.exp(-0.5 * ((times - (27 if one else 21)) / 2.0) ** 2)
        rows.append((times, peak + rng.normal(0.0, 0.3, len(times))))
    return rows, late


def beside_an_image(rows, seed):
    """Return three columns that say nothing, and the packed series."""
    image = np.random.default_rng(seed).normal(size=(len(rows), 3))
    return np.hstack([image, pack_series(rows, n_slots=30)])


def with_series(reads, **settings):
    """Return a small classifier of an image and a time series."""
    return SparseMoEClassifier(
        n_experts=2,
        top_k=1,
        expert_hidden=16,
        modalities={"image": slice(0, 3), "vitals": slice(3, None)},
        time_series={"vitals": reads},
        random_state=0,
        **{"training": MiniBatches(max_epochs=60, patience=10), **settings},
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_attention_learned_with_the_rest_sees_finer_than_it_started(seed):
    (rows, y), (others, truth) = fine(600, 2 * seed), fine(600, 2 * seed + 1)
    X, X_test = beside_an_image(rows, seed), beside_an_image(others, seed + 10)
    reads = MultiTimeAttention(4, n_frequencies=3, n_variables=1)
    learned = with_series(reads).fit(X, y)
    grid = reads.fit(rows)
    fixed = clone(learned).set_params(time_series=None)
    fixed.fit(np.hstack([X[:, :3], grid.transform(X[:, 3:])]), y)
    told = fixed.predict_proba(np.hstack([X_test[:, :3], grid.transform(X_test[:, 3:])]))
    assert learned.score(X_test, truth) > 0.95
    assert log_loss(truth, learned.predict_proba(X_test)) < log_loss(truth, told)


def test_series_in_the_classifier():
    """Missing series, rows alone, other paddings, pickles; and every tensor is trained."""
    rows, y = peaks(150, 4)
    rows[:30] = [None] * 30
    X = beside_an_image(rows, 0)
    settings = {"router": "disjoint", "noise": True, "gating": "laplace"}
    reads = MultiTimeAttention(4, n_variables=1)
    epochs = [MiniBatches(max_epochs=n, early_stopping=False) for n in (1, 2)]
    one, two = (with_series(reads, training=each, **settings).fit(X, y) for each in epochs)
    for name, value in one.weights_.items():
        assert not np.array_equal(value, two.weights_[name]), name
    told = two.predict_proba(X)
    alone = np.concatenate([two.predict_proba(X[i : i + 1]) for i in range(len(X))])
    assert np.allclose(alone, told, rtol=0, atol=1e-12)
    assert (two.routing_weights(X)[:30, 1] == 0).all()
    backwards = [row and (row[0][::-1], row[1][::-1]) for row in rows]
    assert np.allclose(two.predict_proba(beside_an_image(backwards, 0)), told, rtol=0, atol=1e-12)
    dumped = pickle.dumps(two)
    assert b"torch" not in dumped
    assert np.array_equal(pickle.loads(dumped).predict_proba(X), told)
    changed = X.copy()
    changed[:30, :3] += 1.0
    assert not np.allclose(two.predict_proba(changed)[:30], told[:30])


@pytest.mark.parametrize(
    ("series", "told"),
    [
        ("vitals", "a dict from modalities"),
        ({"pulse": MultiTimeAttention(n_variables=1)}, "a dict from modalities"),
        ({"vitals": "mtand"}, "a dict from modalities"),
        ({"vitals": MultiTimeAttention()}, "n_variables"),
        ({"vitals": MultiTimeAttention(n_variables=3)}, "not a multiple of the 7"),
        ({"vitals": MultiTimeAttention(0, n_variables=1)}, "n_points"),
    ],
)
def test_wrong_series_of_the_classifier_are_told(series, told):
    rows, y = peaks(40, 0)
    clf = with_series(None).set_params(time_series=series)
    with pytest.raises(InputError, match=told):
        clf.fit(beside_an_image(rows, 0), y)


def test_saved_series_say_the_same(tmp_path):
    rows, y = peaks(60, 5)
    X = beside_an_image(rows, 0)
    reads = MultiTimeAttention(4, sharpness=(8.0, 1.0), n_variables=1)
    clf = with_series(reads, training=MiniBatches(max_epochs=2)).fit(X, y)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.time_series["vitals"].get_params() == reads.get_params()
    told = clf.time_series_["vitals"].transform(X[:, 3:])
    assert np.array_equal(again.time_series_["vitals"].transform(X[:, 3:]), told)


def test_times_outside_the_span_count_as_at_its_end():
    fitted = MultiTimeAttention(5, time_range=(0.0, 10.0)).fit(ragged(20, 0))
    beyond = [([-50.0, 60.0], [[1.0, 2.0], [3.0, 4.0]])]
    ends = [([0.0, 10.0], [[1.0, 2.0], [3.0, 4.0]])]
    assert np.array_equal(fitted.transform(beyond), fitted.transform(ends))


def test_rows_of_no_weight_neither_span_nor_scale():
    rows = ragged(30, 1)
    packed = pack_series([*rows, ([999.0], [[1e6, 1e6]])])
    fitted = MultiTimeAttention(3, n_variables=2)
    fitted.n_variables_ = 2
    weighed = fitted.learn_scales(packed, np.r_[np.ones(30), 0.0])
    alone = MultiTimeAttention(3).fit(rows)
    assert weighed.span_ == alone.span_
    assert np.allclose(weighed.means_, alone.means_)


def test_names_tell_points_in_time_apart():
    rows = [([1.7e9, 1.7e9 + 3600.0], [[1.0], [2.0]])]
    names = MultiTimeAttention(4).fit(rows).get_feature_names_out()
    assert len(set(names)) == len(names) == 8
