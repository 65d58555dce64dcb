import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    LinearGate,
    SkmoecbmWarning,
)
from skmoecbm._calibration import fit_inverse_temperature
from skmoecbm._gates import resolve_gate
from skmoecbm._gating import gate_weights
from skmoecbm._mixture import choose, fit_mixture
from tests.brute_force import best_scale, losses, make_table, pooled


def _mix(S, y, x=None, *, weights=None, present=None, gate="linear", n_folds=5, **settings):
    """Call `fit_mixture` on given out-of-fold logits; everything else plain."""
    n, n_experts, _ = S.shape
    return fit_mixture(
        S,
        y,
        np.ones(n) if weights is None else weights,
        np.ones((n, n_experts), dtype=bool) if present is None else present,
        np.zeros((n, 0)) if x is None else x,
        np.arange(n) % n_folds,
        gate=resolve_gate("test", gate),
        **{
            "names": [f"expert {e}" for e in range(n_experts)],
            "pool": "logit",
            "calibrate": True,
            "guard": True,
            **settings,
        },
    )


def _noisy_experts(n=200, n_experts=2, n_classes=3, scale=1.0, gain=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    S = rng.normal(size=(n, n_experts, n_classes)) + gain * np.eye(n_classes)[y][:, None]
    return scale * S, y


# ---- temperatures ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_temperature_is_the_grid_optimum_of_the_map_objective(scale):
    S, y = _noisy_experts(n=40, n_experts=1, scale=scale)
    weights = np.random.default_rng(1).uniform(0.3, 2, 40)
    n = weights.sum()
    grid = np.exp(np.linspace(-4, 5, 1801))
    for kappa, same in ((3.0, True), (0.0, False)):
        risk = np.array([losses(tau * S[:, 0], y) @ weights / n for tau in grid])
        best = grid[np.argmin(risk + kappa * np.log(grid) ** 2 / n)]
        mine = fit_inverse_temperature(S[:, 0], y, weights)
        assert bool(abs(np.log(mine / best)) < 6e-3) is same


def test_temperature_of_few_rows_stays_near_one_and_of_perfect_rows_finite():
    S, y = np.array([[[5.0, 0]], [[0.0, 5]]]), np.array([0, 1])
    assert 1 < fit_inverse_temperature(S[:, 0], y, np.ones(2)) < 1.5
    assert fit_inverse_temperature(S[:, 0], 1 - y, np.ones(2)) > 0.05
    many = fit_inverse_temperature(np.tile(S[:, 0], (500, 1)), np.tile(y, 500), np.ones(1000))
    assert 1.5 < many < 10


def test_temperature_averages_over_masks_of_the_same_rows():
    S, y = _noisy_experts(n=50, n_experts=2)
    together = fit_inverse_temperature(np.stack([S[:, 0], 3 * S[:, 1]]), y, np.ones(50))
    twice = np.r_[S[:, 0], 3 * S[:, 1]]
    assert together == pytest.approx(best_scale(twice, np.r_[y, y], np.full(100, 0.5)), rel=1e-4)


def test_expert_temperatures_are_those_of_their_own_rows_and_undo_their_scale():
    S, y = _noisy_experts(n=300, n_experts=2)
    S[:, 1] *= 6
    present = np.random.default_rng(2).random((300, 2)) > 0.2
    present[:, 0] |= ~present.any(axis=1)
    fit = _mix(S, y, gate="uniform", guard=False, present=present)
    for e in range(2):
        expected = best_scale(S[present[:, e], e], y[present[:, e]])
        assert fit.expert_scale[e] == pytest.approx(expected, rel=1e-4)
    assert fit.expert_scale[0] > 3 * fit.expert_scale[1]
    plain = _mix(S, y, gate="uniform", guard=False, calibrate=False)
    np.testing.assert_array_equal(plain.expert_scale, 1)
    np.testing.assert_array_equal(plain.pool_scale, 1)


def test_pool_scale_is_fitted_for_each_number_of_present_experts():
    S, y = _noisy_experts(n=200, n_experts=3)
    weights = np.random.default_rng(3).uniform(0.5, 2, 200)
    fit = _mix(S, y, gate="uniform", guard=False, weights=weights)
    C = S * fit.expert_scale[:, None]
    pairs = [(C[:, a] + C[:, b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))]
    of_two = best_scale(np.concatenate(pairs), np.tile(y, 3), np.tile(weights, 3) / 3)
    assert fit.pool_scale[0] == 1
    assert fit.pool_scale[1] == pytest.approx(of_two, rel=1e-4)
    assert fit.pool_scale[2] == pytest.approx(best_scale(C.mean(axis=1), y, weights), rel=1e-4)
    # An average of independent experts is surer than it says, the more so the more they are.
    assert 1.1 < fit.pool_scale[1] < fit.pool_scale[2]


def test_rows_with_one_expert_take_no_part_in_the_pool_scale():
    S, y = _noisy_experts(n=120, n_experts=2)
    present = np.ones((120, 2), dtype=bool)
    present[:30, 0] = False
    fit = _mix(S, y, gate="uniform", guard=False, present=present)
    C = S * fit.expert_scale[:, None]
    expected = best_scale(C[30:].mean(axis=1), y[30:])
    assert fit.pool_scale[1] == pytest.approx(expected, rel=1e-4)


def test_rows_with_a_missing_expert_tell_their_own_pool_scale_beside_masked_complete_rows():
    S, y = _noisy_experts(n=240, n_experts=3)
    weights = np.random.default_rng(3).uniform(0.5, 2, 240)
    for n_complete in (0, 1, 100):
        present = np.ones((240, 3), dtype=bool)
        lost = np.arange(n_complete, 240)
        present[lost, lost % 3] = False
        fit = _mix(S, y, gate="uniform", guard=False, weights=weights, present=present)
        C = S * fit.expert_scale[:, None]
        whole = np.arange(n_complete)
        pairs = [(C[whole, a] + C[whole, b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))]
        own = np.einsum("ne,nek->nk", present[lost] / 2, C[lost])
        rows = np.r_[lost, whole, whole, whole]
        share = np.r_[weights[lost], np.tile(weights[whole] / 3, 3)]
        expected = best_scale(np.concatenate([own, *pairs]), y[rows], share)
        assert fit.pool_scale[1] == pytest.approx(expected, rel=1e-4)
        if not n_complete:
            assert fit.pool_scale[2] == fit.pool_scale[1], "no row tells about three experts"


def test_pool_scale_of_masked_rows_sees_the_gate_inputs_that_prediction_would_see():
    rng = np.random.default_rng(0)
    n = 300
    y, who = rng.integers(0, 2, n), rng.integers(0, 3, n)
    blocks = []
    for e in range(3):
        told = 2.0 * (2 * y - 1) * (who == e)
        blocks += [told[:, None] + rng.normal(size=(n, 2)), 3.0 * (who == e)[:, None]]
        blocks[-1] = blocks[-1] + rng.normal(size=(n, 1))
    X = np.concatenate(blocks, axis=1)
    experts = [(name, slice(3 * e, 3 * e + 3)) for e, name in enumerate("abc")]
    for gate_input in ("auto", "similarities"):
        head = ConceptBottleneckClassifier(alpha=1.0)
        clf = GatedConceptBottleneckClassifier(
            head, LinearGate(penalty=2.0), experts=experts, guard=False, gate_input=gate_input
        ).fit(X, y)
        C = clf.oof_logits_ * clf.expert_scale_[:, None]
        right, wrong = [], []
        for e, name in enumerate("abc"):
            right.append(np.einsum("ne,nek->nk", clf.without(name).gate_weights(X), C))
            G = clf.gate_weights(X) * (np.arange(3) != e)
            wrong.append(np.einsum("ne,nek->nk", G / G.sum(axis=1, keepdims=True), C))
        labels, share = np.tile(y, 3), np.full(3 * n, 1 / 3)
        right = best_scale(np.concatenate(right), labels, share)
        wrong = best_scale(np.concatenate(wrong), labels, share)
        assert clf.pool_scale_[1] == pytest.approx(right, rel=1e-4)
        assert abs(wrong - right) > 1e-3


@pytest.mark.parametrize("n_experts", [7, 9])
def test_pool_scales_of_many_experts_do_not_depend_on_their_order(n_experts):
    S, y = _noisy_experts(n=80, n_experts=n_experts)
    S = S * np.linspace(0.3, 2, n_experts)[:, None]
    names = list("ihgfedcba")[:n_experts]
    order = np.random.default_rng(0).permutation(n_experts)
    scales = [
        _mix(S[:, e], y, gate="uniform", guard=False, names=[names[i] for i in e]).pool_scale
        for e in (np.arange(n_experts), order)
    ]
    np.testing.assert_allclose(scales[0], scales[1], rtol=1e-9)


# ---- the guard -------------------------------------------------------------------------------


def test_reported_losses_are_those_of_average_and_singles():
    S, y = _noisy_experts(n_experts=3)
    weights = np.random.default_rng(0).uniform(0.2, 2, 200)
    fit = _mix(S, y, np.zeros((200, 0)), weights=weights, calibrate=False)
    expected = {"uniform": losses(S.mean(axis=1), y) @ weights / weights.sum()}
    for e in range(3):
        expected[f"expert {e}"] = losses(S[:, e], y) @ weights / weights.sum()
    assert list(fit.losses) == ["uniform", "constant", "expert 0", "expert 1", "expert 2", "linear"]
    for name, value in expected.items():
        assert fit.losses[name] == pytest.approx(value, abs=1e-12)


def test_losses_are_cross_fitted():
    """A gate with one input per row learns its rows by heart; held-out rows do not gain."""
    S, y = _noisy_experts(n=60, scale=3)
    fit = _mix(S, y, np.eye(60), gate=LinearGate(penalty=1e-3), calibrate=False, guard=False)
    G = gate_weights(fit.gate, np.eye(60), np.ones((60, 2), dtype=bool))
    fitted = losses(pooled(G, S, "logit"), y).mean()
    crossed = _mix(S, y, np.eye(60), gate=LinearGate(penalty=1e-3), calibrate=False).losses
    assert fitted < crossed["uniform"] - 0.3
    assert crossed["linear"] > crossed["uniform"] - 0.05


def _by_hand(rows, groups=None, n_errors=2.0):
    """Return the candidate kept on equal weights: sums over clusters, n / (n - 1)."""
    current = next(iter(rows))
    for name in list(rows)[1:]:
        gain = rows[current] - rows[name]
        away = gain - gain.mean()
        clusters = np.arange(len(gain)) if groups is None else groups
        sums = [away[clusters == g].sum() for g in np.unique(clusters)]
        variance = np.sum(np.square(sums)) / len(gain) ** 2
        variance *= len(sums) / (len(sums) - 1)
        if gain.mean() > n_errors * np.sqrt(variance):
            current = name
    return current


@pytest.mark.parametrize("clustered", [False, True])
def test_guard_leaves_a_candidate_only_for_two_paired_standard_errors(clustered):
    rng = np.random.default_rng(0)
    kept, kept_by_one = [], 0
    for _ in range(150):
        n = int(rng.integers(10, 40))
        groups = rng.integers(0, 6, n) if clustered else None
        base = rng.exponential(2.0, n)
        common = rng.normal(size=6)[groups] * 0.2 if clustered else 0
        rows = {"uniform": base}
        for name in ("constant", "a", "linear"):
            rows[name] = base - common - rng.normal(rng.choice([0.0, 0.05, 0.1]), 0.15, n)
        expected = _by_hand(rows, groups)
        assert choose(rows, np.ones(n), groups) == expected
        kept.append(expected)
        kept_by_one += _by_hand(rows, groups, 1.0) == expected
    assert {"uniform", "constant", "a", "linear"} == set(kept)
    assert kept_by_one < 140, "one standard error is another rule"


def test_guard_is_paired_clustered_and_weighted():
    rng = np.random.default_rng(0)
    base = rng.exponential(3.0, 100)
    ones = np.ones(100)
    better = {"uniform": base, "linear": base - 0.05 + 0.01 * rng.normal(size=100)}
    assert choose(better, ones) == "linear"
    gap = base.mean() - better["linear"].mean()
    assert gap < 2 * np.sqrt(2 * base.var() / 100), "an unpaired rule never leaves uniform"
    # 20 copies of 5 rows are 5 rows.
    gain = np.tile([0.5, 0.4, -0.2, 0.3, -0.1], 20)
    copies = {"uniform": np.ones(100), "linear": 1 - gain}
    assert choose(copies, ones) == "linear"
    assert choose(copies, ones, groups=np.arange(100) % 5) == "uniform"
    # A row of weight zero changes nothing, a row counted twice is the row twice.
    rows = {"uniform": base[:30], "linear": base[:30] - rng.normal(0.1, 0.3, 30)}
    counts = rng.integers(0, 4, 30).astype(float)
    for shift in np.linspace(-0.2, 0.3, 41):
        moved = {"uniform": rows["uniform"], "linear": rows["linear"] - shift}
        twice = {k: v.repeat(counts.astype(int)) for k, v in moved.items()}
        assert choose(moved, counts, counts=counts) == choose(twice, np.ones(int(counts.sum())))


def test_class_weights_do_not_make_rows_of_a_rare_class_many():
    gain = np.r_[np.full(5, 0.6), np.full(5, -0.3), np.zeros(990)]
    rows = {"uniform": np.ones(1000), "linear": 1 - gain}
    weights = np.r_[np.full(10, 50.0), np.full(990, 0.5)]
    assert choose(rows, weights, counts=np.ones(1000)) == "uniform"
    assert choose(rows, weights, counts=weights) == "linear"


@pytest.mark.parametrize("name", ["uniform", "constant", "linear", "mlp"])
def test_name_of_an_expert_never_passes_for_a_gate(name):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    X = np.c_[rng.normal(size=(300, 3)), 1.5 * y[:, None] + rng.normal(size=(300, 3))]
    head = ConceptBottleneckClassifier(alpha=1.0)
    chosen, losses = [], []
    for noise, good in (("noise", "good"), (name, "good"), ("noise", name)):
        experts = [(noise, slice(0, 3)), (good, slice(3, 6))]
        clf = GatedConceptBottleneckClassifier(head, experts=experts).fit(X, y)
        losses.append(list(clf.oof_log_loss_.values()))
        chosen.append(clf.gate_weights(X))
        if name in (noise, good):
            both = [f"expert {noise}", f"expert {good}"]
            assert list(clf.oof_log_loss_) == ["uniform", "constant", *both, "linear"]
    np.testing.assert_array_equal(losses[1:], [losses[0]] * 2)
    np.testing.assert_array_equal(chosen[1:], [chosen[0]] * 2)


def test_without_guard_the_gate_asked_for_is_kept():
    S, y = _noisy_experts()
    for gate in ("uniform", "constant", "linear"):
        assert _mix(S, y, np.zeros((200, 1)), gate=gate, guard=False).selected == gate


# ---- planted mixtures (item 14) --------------------------------------------------------------


def _planted(n, seed, norm=2.0, scale=5.0, d=4):
    """Return inputs, logits, labels and true gate: a label comes from the expert that G drew."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    w = rng.normal(size=d)
    G = 1 / (1 + np.exp(-x @ (norm * w / np.linalg.norm(w))))
    S = scale * rng.normal(size=(n, 2, 3))
    P = softmax(S, axis=2)
    mixed = G[:, None] * P[:, 0] + (1 - G)[:, None] * P[:, 1]
    y = np.array([rng.choice(3, p=p) for p in mixed])
    return x, S, y, G


def test_planted_mixture_is_found():
    errors = []
    for seed in range(3):
        x, S, y, G = _planted(2000, seed)
        fit = _mix(S, y, x, pool="prob", calibrate=False)
        assert fit.selected == "linear"
        found = gate_weights(fit.gate, x, np.ones((2000, 2), dtype=bool))[:, 0]
        errors.append(np.abs(found - G).mean())
        assert fit.losses["linear"] < min(fit.losses["expert 0"], fit.losses["expert 1"]) - 0.1
        assert fit.information > 0.1
    assert np.mean(errors) < 0.05
    assert np.abs(0.5 - G).mean() > 0.2, "uniform would fail"


def test_planted_null_keeps_the_plain_average():
    kept = 0
    for seed in range(50):
        S, y = _noisy_experts(n=200, gain=1.5, seed=seed)
        x = np.random.default_rng(1000 + seed).normal(size=(200, 4))
        kept += _mix(S, y, x).selected == "uniform"
    assert kept >= 45


# ---- out-of-fold logits (item 13) ------------------------------------------------------------


def _mixture(**settings):
    head = ConceptBottleneckClassifier(alpha=1.0)
    experts = [("a", slice(0, 4)), ("b", slice(4, 9))]
    return GatedConceptBottleneckClassifier(head, **{"experts": experts, **settings})


@pytest.mark.parametrize("n_classes", [2, 3])
def test_out_of_fold_logits_are_those_of_cross_val_predict(n_classes):
    X, y = make_table(n=90, n_classes=n_classes)
    splitter = StratifiedKFold(4, shuffle=True, random_state=0)
    clf = _mixture(cv=splitter).fit(X, y)
    assert clf.oof_logits_.shape == (90, 2, n_classes)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12)
    )
    for e, block in enumerate((X[:, :4], X[:, 4:])):
        expected = cross_val_predict(model, block, y, cv=splitter, method="decision_function")
        mine = clf.oof_logits_[:, e]
        if n_classes == 2:
            np.testing.assert_array_equal(mine[:, 0], 0)
            mine, expected = mine[:, 1], expected
        else:
            mine = mine - mine.mean(axis=1, keepdims=True)
            expected = expected - expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        fitted = clf.heads_[e].decision_function(block)
        fitted = fitted if n_classes == 2 else fitted - fitted.mean(axis=1, keepdims=True)
        assert np.abs(fitted - expected).max() > 0.05, "not the logits of the rows trained on"


def test_expert_that_memorises_random_labels_gets_no_weight():
    rng = np.random.default_rng(0)
    n = 150
    y = np.arange(n) % 2
    good = (2.0 * y - 1)[:, None] + rng.normal(size=(n, 3)) * 1.5
    noise = rng.normal(size=(n, 400))
    features = ExpertFeatures.from_similarities(
        {
            "good": (good, list("pqr")),
            "parrot": (noise, [str(j) for j in range(400)]),
        }
    )
    head = ConceptBottleneckClassifier(alpha=1e-2)
    clf = GatedConceptBottleneckClassifier(head, "constant", calibrate=False, guard=False, cv=5)
    clf.fit(features, y)
    assert clf.heads_[1].score(noise, y) == 1.0, "it knows its training rows by heart"
    assert clf.gate_weights(features)[:, 1].max() < 0.05


# ---- fallbacks -------------------------------------------------------------------------------


def test_below_sixteen_rows_the_plain_average_is_kept_and_said():
    X, y = make_table(n=40, n_classes=2)
    clf = _mixture(cv=2, guard=False).fit(X[:16], y[:16])
    assert clf.fallback_ is None and clf.selected_ == "linear"
    for guard in (False, True):
        with pytest.warns(SkmoecbmWarning, match="No gate could be fitted: fewer than 16 rows"):
            clf = _mixture(cv=2, guard=guard).fit(X[:14], y[:14])
        assert clf.selected_ == "uniform"
    # Nothing was lost to somebody who wants the average.
    assert _mixture(gate="uniform", cv=2).fit(X[:14], y[:14]).fallback_ == clf.fallback_
    assert "16" in clf.fallback_
    np.testing.assert_array_equal(clf.gate_weights(X), 0.5)
    np.testing.assert_array_equal(clf.expert_scale_, 1)


def test_class_of_one_row_or_one_group_leaves_no_fold_and_says_so():
    X, y = make_table(n=60, n_classes=3)
    rare = np.where(np.arange(60) == 7, 3, y)
    with pytest.warns(SkmoecbmWarning, match="two folds"):
        clf = _mixture().fit(X, rare)
    assert clf.selected_ == "uniform" and "two folds" in clf.fallback_
    np.testing.assert_array_equal(clf.oof_logits_, 0)
    groups = np.where(y == 0, 0, np.arange(60) + 1)
    with pytest.warns(SkmoecbmWarning, match="No gate could be fitted"):
        clf = _mixture().fit(X, y, groups=groups)
    assert clf.selected_ == "uniform" and "two folds" in clf.fallback_
    assert _mixture(guard=False).fit(X, y).fallback_ is None


def test_one_expert_has_no_gate_and_no_temperature():
    X, y = make_table(n=60)
    head = ConceptBottleneckClassifier(alpha=1.0)
    clf = GatedConceptBottleneckClassifier(head, experts=[("all", slice(None))]).fit(X, y)
    np.testing.assert_array_equal(clf.gate_weights(X), 1)
    np.testing.assert_array_equal(clf.expert_scale_, [1])
    np.testing.assert_array_equal(clf.pool_scale_, [1])
    single = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    np.testing.assert_array_equal(clf.decision_function(X), single.decision_function(X))
