"""Gates on distances, gates of which only the strongest experts speak, and that none collapses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.model_selection import GridSearchCV

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    GaussianGate,
    InputError,
    LaplaceGate,
    LinearGate,
    MLPGate,
)
from skmoecbm._gating import GateState, gate_weights
from tests.brute_force import losses, make_table, pooled

LEARNED = [LinearGate, MLPGate, LaplaceGate, GaussianGate]
EXPERTS = [("a", slice(0, 3)), ("b", slice(3, 6)), ("c", slice(6, 9))]


def _problem(n=120, n_experts=2, n_inputs=3, seed=0, gain=4.0):
    """Return inputs, logits (n, E, 3), labels, row weights and each row's good expert."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_inputs))
    towards = rng.normal(size=(n_experts, n_inputs))
    best = (x @ towards.T).argmax(axis=1)
    y = rng.integers(0, 3, n)
    S = rng.normal(size=(n, n_experts, 3))
    S[np.arange(n), best, y] += gain
    return x, S, y, rng.uniform(0.5, 2, n), best


def _fit(gate, x, S, y, weights=None, present=None, pool="logit", seed=0):
    """Fit one gate on one set of weights, as the mixture does."""
    weights = np.ones(len(y)) if weights is None else weights
    present = np.ones(S.shape[:2], dtype=bool) if present is None else present
    states, _ = gate.fit_states(
        x, S[None], y, weights[None], present, pool, device="cpu", seed=seed
    )
    return states[0]


def _weights(state, x, n_experts):
    return gate_weights(state, x, np.ones((len(x), n_experts), dtype=bool))


def _presence(n, n_experts, seed=1, rate=0.3):
    rng = np.random.default_rng(seed)
    present = rng.random((n, n_experts)) > rate
    present[np.arange(n), rng.integers(0, n_experts, n)] = True
    return present


def _distances(x, W):
    return np.array([[np.sqrt(sum((a - b) ** 2)) for b in W] for a in x])


# ---- Laplace (item 17) -----------------------------------------------------------------------


def test_laplace_weights_are_a_softmax_of_biases_less_distances():
    rng = np.random.default_rng(0)
    x, W, beta = rng.normal(size=(9, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    present = _presence(9, 3)
    state = GateState("laplace", {"centre": W, "bias": beta, "scale": np.array(1.7)})
    H = np.where(present, beta - 1.7 * _distances(x, W), -np.inf)
    np.testing.assert_allclose(gate_weights(state, x, present), softmax(H, axis=1), atol=1e-14)
    squared = softmax(np.where(present, beta - 1.7 * _distances(x, W) ** 2, -np.inf), axis=1)
    assert np.abs(gate_weights(state, x, present) - squared).max() > 0.1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), reach=st.floats(0, 6), scale=st.floats(0.1, 5))
def test_laplace_gaps_are_bounded_however_far_the_row(seed, reach, scale):
    rng = np.random.default_rng(seed)
    W, beta = rng.normal(size=(3, 4)), rng.normal(size=3)
    x = rng.normal(size=(20, 4))
    x *= 10**reach / np.linalg.norm(x, axis=1, keepdims=True)
    x[0] = W[0]
    arrays = {"centre": W, "bias": beta, "scale": np.array(scale)}
    G = _weights(GateState("laplace", arrays), x, 3)
    bound = np.abs(beta[:, None] - beta) + scale * _distances(W, W)
    gaps = np.log(G)[:, :, None] - np.log(G)[:, None, :]
    assert (np.abs(gaps) <= bound + 1e-8).all()


def test_the_squared_form_knows_no_such_bound():
    W, x = np.array([[1.0, 0], [-1, 0]]), np.array([[1e6, 0.0]])
    gap = np.diff(-(_distances(x, W) ** 2))[0, 0]
    assert abs(gap) > 1e6 * np.linalg.norm(W[0] - W[1]) / 2


def _laplace_objective(flat, scale, x, S, y, weights, penalty, present, pool):
    """Return the objective in plain numpy, from centres (E, q) and biases (E,)."""
    E = S.shape[1]
    W, beta = flat[: E * x.shape[1]].reshape(E, -1), flat[E * x.shape[1] :]
    n = weights.sum()
    distance = np.sqrt(((x[:, None] - W) ** 2).sum(axis=2))
    G = softmax(np.where(present, beta - scale * distance, -np.inf), axis=1)
    r2 = weights @ (x**2).sum(axis=1) / n
    pull = scale**2 / r2 * (W**2).sum() + 0.1 * (beta**2).sum()
    return losses(pooled(G, S, pool), y) @ weights / n + penalty / n * pull


@pytest.mark.parametrize("pool", ["logit", "prob"])
@pytest.mark.parametrize("n_experts", [2, 3])
def test_laplace_gate_is_an_optimum_that_scipy_cannot_better(pool, n_experts):
    x, S, y, weights, _ = _problem(n=100, n_experts=n_experts, n_inputs=2)
    present = _presence(100, n_experts)
    gate = LaplaceGate(scale=1.5, penalty=5.0)
    state = _fit(gate, x, S, y, weights, present, pool)
    args = (1.5, x, S, y, weights, 5.0, present, pool)
    found = np.r_[state.arrays["centre"].ravel(), state.arrays["bias"]]
    mine = _laplace_objective(found, *args)
    rng = np.random.default_rng(0)
    starts = [found, *rng.normal(size=(4, len(found)))]
    best = min(minimize(_laplace_objective, s, args=args).fun for s in starts)
    assert mine <= best + 1e-4
    assert mine < _laplace_objective(np.zeros(len(found)), *args) - 0.05


@pytest.mark.parametrize("bonus", [{}, {"entropy": 0.3}, {"balance": 0.5}])
def test_laplace_gate_is_stationary_by_finite_differences(bonus):
    x, S, y, weights, _ = _problem(n=80)
    state = _fit(LaplaceGate(scale=1.5, penalty=5.0, tol=1e-9, **bonus), x, S, y, weights)
    found = np.r_[state.arrays["centre"].ravel(), state.arrays["bias"]]
    share = weights / weights.sum()

    def objective(flat):
        W, beta = flat[:6].reshape(2, 3), flat[6:]
        G = softmax(beta - 1.5 * np.sqrt(((x[:, None] - W) ** 2).sum(axis=2)), axis=1)
        args = (1.5, x, S, y, weights, 5.0, np.ones((80, 2), dtype=bool), "logit")
        total = _laplace_objective(flat, *args)
        total += bonus.get("entropy", 0) * share @ (G * np.log(G)).sum(axis=1)
        return total + bonus.get("balance", 0) * (share @ G) @ np.log(share @ G)

    for j in range(len(found)):
        step = np.zeros(len(found))
        step[j] = 1e-4
        slope = (objective(found + step) - objective(found - step)) / 2e-4
        assert abs(slope) < 1e-5
    assert np.abs(found).max() > 0.05


def test_laplace_gate_starts_nearly_uniform_and_ends_there_under_a_large_penalty():
    x, S, y, _, best = _problem(n=100, n_experts=3)
    start = _fit(LaplaceGate(scale=3.0, max_iter=0), x, S, y)
    gaps = np.log(_weights(start, x, 3))
    assert 1e-3 < np.ptp(gaps, axis=1).max() <= 0.1 + 1e-9
    np.testing.assert_allclose(
        _weights(_fit(LaplaceGate(penalty=1e9), x, S, y), x, 3), 1 / 3, atol=1e-4
    )
    learned = _weights(_fit(LaplaceGate(), x, S, y), x, 3)
    assert learned[np.arange(100), best].mean() > 0.4


def test_laplace_gate_may_start_on_a_row_and_rest_on_one():
    """With two kinds of rows a centre is on one whenever the penalty lets it get there."""
    which = np.arange(120) % 2
    x, y = (2.0 * which - 1)[:, None], np.random.default_rng(0).integers(0, 3, 120)
    S = np.random.default_rng(1).normal(size=(120, 2, 3))
    S[np.arange(120), which, y] += 4
    for scale, penalty in ((0.01, 0.0), (3.0, 0.01), (3.0, 20.0)):
        gate = LaplaceGate(scale=scale, penalty=penalty)
        start = _fit(LaplaceGate(scale=scale, penalty=penalty, max_iter=0), x, S, y)
        on_rows = np.isclose(np.abs(start.arrays["centre"]), 1.0, rtol=0, atol=1e-12).all()
        assert bool(on_rows) == (scale == 0.01)
        state = _fit(gate, x, S, y)
        assert all(np.isfinite(part).all() for part in state.arrays.values())
        G = _weights(state, x, 2)
        assert G[which == 0, 0].min() > G[which == 1, 0].max()
        # So small a scale parts them by 0.01 at most, and a large penalty shrinks what parts them.
        own = G[np.arange(120), which]
        assert scale == 0.01 or (own > (0.95 if penalty == 0.01 else 0.6)).all()


def test_laplace_gate_follows_its_experts_wherever_they_stand():
    x, S, y, weights, _ = _problem(n=150, n_experts=3)
    present = _presence(150, 3)
    order = np.array([2, 0, 1])
    state = _fit(LaplaceGate(penalty=1.0), x, S, y, weights, present)
    moved = _fit(LaplaceGate(penalty=1.0), x, S[:, order], y, weights, present[:, order])
    for name in ("centre", "bias"):
        np.testing.assert_allclose(moved.arrays[name], state.arrays[name][order], atol=1e-4)


def test_laplace_gate_counts_a_row_by_its_weight():
    x, S, y, _, _ = _problem(n=60)
    counts = np.random.default_rng(0).integers(0, 3, 60)
    weighted = _fit(LaplaceGate(), x, S, y, counts.astype(float))
    repeated = _fit(LaplaceGate(), *(part.repeat(counts, axis=0) for part in (x, S, y)))
    for name in ("centre", "bias"):
        np.testing.assert_allclose(weighted.arrays[name], repeated.arrays[name], atol=1e-5)


def test_laplace_folds_solved_as_a_stack_are_the_folds_solved_alone():
    x, S, y, weights, _ = _problem(n=120)
    shares = weights * (np.arange(120) % 3 != np.c_[:3])
    present = np.ones((120, 2), dtype=bool)
    stack = np.stack([S, 1.3 * S, 0.6 * S])
    together, _ = LaplaceGate().fit_states(
        x, stack, y, shares, present, "logit", device="cpu", seed=3
    )
    for f in range(3):
        kept = shares[f] > 0
        alone = _fit(LaplaceGate(), x[kept], stack[f][kept], y[kept], shares[f][kept], seed=3)
        for name in ("centre", "bias"):
            np.testing.assert_allclose(together[f].arrays[name], alone.arrays[name], atol=1e-4)


def test_laplace_gate_of_more_experts_than_rows_is_finite():
    x, S, y, _, _ = _problem(n=30, n_experts=5)
    weights = np.zeros(30)
    weights[:3] = 1
    state = _fit(LaplaceGate(), x, S, y, weights)
    assert np.isfinite(_weights(state, x, 5)).all()
    nothing = _fit(LaplaceGate(), np.zeros((30, 2)), S, y)
    assert np.isfinite(_weights(nothing, np.zeros((30, 2)), 5)).all()


# ---- Gaussian --------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.3, 2.0])
def test_squared_distances_are_an_affine_softmax_gate(s):
    x, S, y, weights, _ = _problem(n=150, n_experts=3)
    state = _fit(GaussianGate(), x, S, y, weights)
    linear = _fit(LinearGate(), x, S, y, weights)
    assert state.kind == "gaussian"
    for name in ("slope", "bias"):
        np.testing.assert_array_equal(state.arrays[name], linear.arrays[name])
    # b - s ||x - W||^2 with slopes 2 s W and biases b - s ||W||^2
    W = state.arrays["slope"] / (2 * s)
    b = state.arrays["bias"] + s * (W**2).sum(axis=1)
    H = b - s * _distances(x, W) ** 2
    np.testing.assert_allclose(_weights(state, x, 3), softmax(H, axis=1), atol=1e-12)
    unsquared = softmax(b - s * _distances(x, W), axis=1)
    assert np.abs(_weights(state, x, 3) - unsquared).max() > 0.05


# ---- top k -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4), ties=st.booleans())
def test_top_k_keeps_the_largest_weights_of_the_present_and_of_equal_ones_the_first(seed, k, ties):
    rng = np.random.default_rng(seed)
    slope = rng.normal(size=(4, 2))
    slope = np.round(slope) if ties else slope
    x = np.round(rng.normal(size=(8, 2))) if ties else rng.normal(size=(8, 2))
    present = rng.random((8, 4)) > 0.3
    arrays = {"slope": slope, "bias": np.zeros(4)}
    dense = gate_weights(GateState("linear", arrays), x, present)
    G = gate_weights(GateState("linear", {**arrays, "top_k": np.array(k)}), x, present)
    for i in range(8):
        here = sorted(np.flatnonzero(present[i]), key=lambda e: (-round(dense[i, e], 12), e))[:k]
        expected = np.zeros(4)
        expected[here] = dense[i, here] / dense[i, here].sum() if here else 0
        np.testing.assert_allclose(G[i], expected, atol=1e-12)
        alone = gate_weights(
            GateState("linear", {**arrays, "top_k": np.array(k)}), x[[i]], present[[i]]
        )
        np.testing.assert_allclose(G[i], alone[0], atol=1e-12)


def test_what_is_equal_but_for_rounding_is_a_tie():
    arrays = {"slope": np.zeros((3, 1)), "bias": np.array([0.1 + 0.2, 0.3, 0.0])}
    for bias in (arrays["bias"], arrays["bias"][[1, 0, 2]]):
        state = GateState("linear", {**arrays, "bias": bias, "top_k": np.array(1)})
        np.testing.assert_array_equal(_weights(state, np.zeros((2, 1)), 3), [[1, 0, 0]] * 2)


@pytest.mark.parametrize("cls", LEARNED)
def test_top_k_is_learned_as_if_all_had_a_say(cls):
    # Eight inputs: of three the MLP's layer norm leaves but an angle.
    x, S, y, weights, best = _problem(n=300, n_experts=3, n_inputs=8)
    dense, sparse = _fit(cls(), x, S, y, weights), _fit(cls(top_k=1), x, S, y, weights)
    assert set(sparse.arrays) - set(dense.arrays) == {"top_k"}
    for name, part in dense.arrays.items():
        np.testing.assert_array_equal(sparse.arrays[name], part)
    G = _weights(sparse, x, 3)
    assert set(np.unique(G)) == {0.0, 1.0}
    assert (G.argmax(axis=1) == best).mean() > 0.75


def test_pool_sum_learns_with_as_many_experts_as_will_have_a_say():
    x, S, y, weights, _ = _problem(n=150, n_experts=3)
    present = _presence(150, 3)
    one = _fit(LinearGate(top_k=1), x, S, y, weights, present, "sum")
    logit = _fit(LinearGate(), x, S, y, weights, present, "logit")
    summed = _fit(LinearGate(), x, S, y, weights, present, "sum")
    np.testing.assert_allclose(one.arrays["slope"], logit.arrays["slope"], atol=1e-6)
    assert np.abs(one.arrays["slope"] - summed.arrays["slope"]).max() > 0.01
    every = _fit(LinearGate(top_k=3), x, S, y, weights, present, "sum")
    np.testing.assert_allclose(every.arrays["slope"], summed.arrays["slope"], atol=1e-6)


def _regimes(n=300, seed=0, n_classes=2):
    """Return a table of three experts of three columns; each knows a third of the rows."""
    rng = np.random.default_rng(seed)
    which, y = rng.integers(0, 3, n), rng.integers(0, n_classes, n)
    X = rng.normal(size=(n, 9))
    for e in range(3):
        X[:, 3 * e] += 3 * (which == e)
        X[:, 3 * e + 1] += 2.0 * (2 * y - n_classes + 1) * (which == e)
    return X, y, which


def _mixture(gate, **settings):
    head = ConceptBottleneckClassifier(alpha=1.0)
    settings = {"experts": EXPERTS, "guard": False, "cv": 3, "random_state": 0, **settings}
    return GatedConceptBottleneckClassifier(head, gate, **settings)


@pytest.mark.parametrize("pool", ["logit", "sum"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_contributions_of_the_strongest_sum_to_the_decision(pool, n_classes):
    X, y, _ = _regimes(n_classes=n_classes)
    clf = _mixture(LinearGate(penalty=1.0, top_k=2), pool=pool).fit(X, y)
    X = X[:40].copy()
    X[:10, :3] = np.nan
    X[5:15, 3:6] = np.nan
    G = clf.gate_weights(X)
    assert ((G > 0).sum(axis=1) == np.minimum(2, (~np.isnan(X[:, ::3])).sum(axis=1))).all()
    explanation = clf.explain(X)
    summed = sum(c.sum(axis=1) for c in explanation.contributions) + explanation.bias
    decision = clf.decision_function(X).reshape(40, -1)
    np.testing.assert_allclose(summed, decision, atol=1e-10)
    S = clf.expert_scale_[:, None] * np.nan_to_num(clf.expert_logits(X).reshape(40, 3, -1))
    total = np.einsum("ne,nek->nk", G, S) * ((G > 0).sum(1, keepdims=True) if pool == "sum" else 1)
    scale = clf.pool_scale_[(~np.isnan(X[:, ::3])).sum(axis=1) - 1]
    np.testing.assert_allclose(decision, scale[:, None] * total, atol=1e-10)


@pytest.mark.parametrize("cls", LEARNED)
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_missing_expert_equals_model_without_it(cls, top_k):
    X, y, _ = _regimes()
    X[:30, :3] = np.nan
    clf = _mixture(cls(top_k=top_k)).fit(X, y)
    for name, columns in EXPERTS:
        holed = X.copy()
        holed[:, columns] = np.nan
        kept = ~np.isnan(holed).all(axis=1)
        np.testing.assert_array_equal(
            clf.predict_proba(holed[kept]), clf.without(name).predict_proba(X[kept])
        )
    rows = clf.predict_proba(X)
    np.testing.assert_allclose(
        [clf.predict_proba(X[[i]])[0] for i in range(40)], rows[:40], atol=1e-12
    )
    np.testing.assert_allclose(clf.predict_proba(X[::-1])[::-1], rows, atol=1e-12)


@pytest.mark.parametrize("cls", LEARNED)
@pytest.mark.parametrize("top_k", [None, 2])
def test_permuting_the_experts_permutes_the_weights(cls, top_k):
    X, y, _ = _regimes()
    clf = _mixture(cls(top_k=top_k)).fit(X, y)
    moved = _mixture(cls(top_k=top_k), experts=[EXPERTS[i] for i in (2, 0, 1)]).fit(X, y)
    atol = 1e-8 if cls is not LaplaceGate else 1e-5
    np.testing.assert_allclose(moved.gate_weights(X), clf.gate_weights(X)[:, [2, 0, 1]], atol=atol)
    np.testing.assert_allclose(moved.predict_proba(X), clf.predict_proba(X), atol=atol)


@pytest.mark.parametrize("gate", ["laplace", "gaussian", LinearGate(top_k=1), LaplaceGate(top_k=1)])
def test_gate_wins_where_quality_varies_by_row(gate):
    X, y, which = _regimes(n=600)
    clf = _mixture(gate, guard=True).fit(X, y)
    kind = gate if isinstance(gate, str) else gate.kind
    assert clf.selected_ == kind == clf.gate_state_.kind
    others = [loss for name, loss in clf.oof_log_loss_.items() if name != kind]
    assert clf.oof_log_loss_[kind] < min(others) - 0.05
    new, label, which = _regimes(n=600, seed=1)
    uniform = _mixture("uniform").fit(X, y)
    assert clf.score(new, label) > uniform.score(new, label) + 0.02
    assert (clf.gate_weights(new).argmax(axis=1) == which).mean() > 0.7


def test_more_speakers_than_experts_are_refused():
    X, y, _ = _regimes(n=60)
    with pytest.raises(
        InputError, match=r"'top_k' parameter of LaplaceGate must be at most.*3. Got"
    ):
        _mixture(LaplaceGate(top_k=4)).fit(X, y)
    with pytest.raises(InputError, match="top_k"):
        _mixture(LinearGate(top_k=2), experts=[("all", slice(0, 9))]).fit(X, y)
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match=r"'top_k' parameter of LinearGate must be an integer"):
            _mixture(LinearGate(top_k=bad)).fit(X, y)


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (LaplaceGate(scale=0.0), "scale"),
        (LaplaceGate(penalty=-1.0), "penalty"),
        (LaplaceGate(max_iter=0), "max_iter"),
        (LaplaceGate(tol=0), "tol"),
        (GaussianGate(entropy=-1), "entropy"),
        (LaplaceGate(balance=np.nan), "balance"),
    ],
)
def test_parameters_out_of_range_are_refused(gate, name):
    X, y, _ = _regimes(n=60)
    with pytest.raises(InputError, match=f"'{name}' parameter of {type(gate).__name__} must be"):
        _mixture(gate).fit(X, y)


def test_gates_are_searched_by_their_own_parameters():
    X, y, _ = _regimes(n=90)
    grid = [
        {"gate__penalty": [1.0, 1e6], "gate__top_k": [None, 1], "gate": [LaplaceGate()]},
        {"gate__scale": [0.5, 3.0], "gate": [LaplaceGate()]},
    ]
    search = GridSearchCV(_mixture(LaplaceGate()), grid, cv=2, error_score="raise").fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(np.round(scores, 6))) > 1
    assert search.best_estimator_.gate_state_.kind == "laplace"


def test_endless_bonus_is_the_uniform_gate_for_each_of_them():
    X, y = make_table(n=90, noise=2.0)
    experts = [("a", slice(0, 4)), ("b", slice(4, 9))]
    for cls in (LaplaceGate, GaussianGate):
        free = _mixture(cls(penalty=0.1), experts=experts).fit(X, y)
        endless = _mixture(cls(penalty=0.1, entropy=1e7), experts=experts).fit(X, y)
        np.testing.assert_allclose(endless.gate_weights(X), 0.5, atol=1e-4)
        assert np.abs(free.gate_weights(X) - 0.5).max() > 0.05


# ---- no collapse -----------------------------------------------------------------------------


def _collapsed(gate, n, seed):
    """Tell whether nearly all weight of nearly all rows went to one of two useful experts."""
    x, S, y, weights, _ = _problem(n=n, n_inputs=8, seed=100 + seed, gain=2.0)
    G = _weights(_fit(gate, x, S, y, weights, seed=seed), x, 2)
    return G.mean(axis=0).min() < 0.1 or (G.min(axis=1) < 0.01).mean() > 0.9


@pytest.mark.parametrize("cls", [MLPGate, LaplaceGate])
def test_none_of_36_starts_collapses_at_default_settings(cls):
    starts = [(n, seed) for n in (24, 80, 300) for seed in range(12)]
    assert sum(_collapsed(cls(), n, seed) for n, seed in starts) == 0


def test_the_test_for_collapse_sees_one():
    hasty = MLPGate(learning_rate=0.5, weight_decay=0.0, entropy=-1.0)
    assert sum(_collapsed(hasty, 80, seed) for seed in range(6)) >= 5
    free = LaplaceGate(penalty=0.0, scale=50.0, entropy=-1.0)
    assert sum(_collapsed(free, 80, seed) for seed in range(6)) >= 5
