"""Gates and pools. The published reference adds the entropy it means to reward; both signs are
carried here, and the published one is shown to drive the gate to 0 or 1."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.decomposition import PCA

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    LinearGate,
    MLPGate,
)
from skmoecbm._columns import ExpertData
from skmoecbm._gate_inputs import fit_gate_inputs, gate_inputs
from skmoecbm._gating import (
    GateState,
    fit_constant_gate,
    fit_linear_gate,
    gate_weights,
    routing_information,
)
from skmoecbm._pooling import PooledLoss, entropy_and_slope, pool_logits
from tests.brute_force import entropy, losses, make_table, pooled

POOLS = ("logit", "prob", "sum")


def _problem(n=60, n_experts=2, n_classes=3, n_inputs=3, seed=0, scale=2.0):
    """Return inputs, logits (n, E, K), labels and row weights: expert 0 is better where x0 > 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_inputs))
    y = rng.integers(0, n_classes, n)
    S = rng.normal(size=(n, n_experts, n_classes))
    for e in range(n_experts):
        S[np.arange(n), e, y] += scale * (1 + np.sign(x[:, 0]) * (1 if e == 0 else -1)) / 2 + 0.3
    return x, S, y, rng.uniform(0.5, 2, n)


def _presence(n, n_experts, seed=1, rate=0.25):
    rng = np.random.default_rng(seed)
    present = rng.random((n, n_experts)) > rate
    present[np.arange(n), rng.integers(0, n_experts, n)] = True
    return present


def _objective(H, S, y, weights, present, pool, eta=0.0, balance=0.0):
    """Return CE - eta * mean H(G_i) - balance * H(mean G), all in plain numpy."""
    share = weights / weights.sum()
    G = softmax(np.where(present, H, -np.inf), axis=1)
    loss = losses(pooled(G, S, pool), y) @ share
    return loss - eta * share @ entropy(G) - balance * entropy(share @ G)


# ---- entropy (item 6) ------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(a=st.floats(-30, 30))
def test_entropy_of_two_experts_and_its_slope(a):
    logits = torch.tensor([[0.0, a]], dtype=torch.float64)
    H, slope = entropy_and_slope(logits, torch.softmax(logits, -1))
    g = expit(a)
    assert H.item() == pytest.approx(np.logaddexp(0, a) - a * g, abs=1e-12)
    assert H.item() == pytest.approx(entropy([g, expit(-a)]), abs=1e-9)
    assert slope[0, 1].item() == pytest.approx(-a * g * expit(-a), abs=1e-12)
    assert slope.sum().item() == pytest.approx(0, abs=1e-12)


def test_entropy_is_finite_however_sure_the_gate_and_ignores_the_absent():
    logits = torch.tensor([[0.0, 900.0, -900.0], [1.0, 0.3, -np.inf]], dtype=torch.float64)
    H, slope = entropy_and_slope(logits, torch.softmax(logits, -1))
    assert H[0] == 0 and torch.isfinite(slope).all()
    assert H[1].item() == pytest.approx(entropy(softmax([1.0, 0.3])), abs=1e-12)
    assert slope[1, 2] == 0


def _descend(sign):
    """Return g after 3,000 steps on the entropy term alone, from g = 0.3."""
    logits = torch.zeros(1, 1, 2, 3, dtype=torch.float64)  # equal experts: no data term
    objective = PooledLoss(
        logits,
        torch.tensor([0]),
        torch.ones(1, 1, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.bool),
        "logit",
        entropy=1.0,
    )
    a = np.log(0.3 / 0.7)
    for _ in range(3000):
        loss, slope = objective(torch.tensor([[[0.0, a]]], dtype=torch.float64))
        a -= sign * slope[0, 0, 1].item()
    assert loss.item() == pytest.approx(np.log(3) - entropy([expit(a), expit(-a)]), abs=1e-3)
    return expit(a)


def test_descent_on_the_entropy_bonus_ends_at_equal_weights_and_the_published_sign_at_zero():
    assert _descend(+1) == pytest.approx(0.5, abs=1e-3)
    assert _descend(-1) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("eta", "balance"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.9), (0.3, 0.4)])
def test_pooled_loss_and_its_slope_by_finite_differences(pool, eta, balance):
    _, S, y, weights = _problem(n=7, n_experts=3)
    present = _presence(7, 3)
    H = np.random.default_rng(3).normal(size=(7, 3))
    objective = PooledLoss(
        torch.as_tensor(S)[None],
        torch.as_tensor(y),
        torch.as_tensor(weights / weights.sum())[None],
        torch.as_tensor(~present),
        pool,
        eta,
        balance,
    )
    loss, slope = objective(torch.as_tensor(H)[None])
    args = (S, y, weights, present, pool, eta, balance)
    assert loss.item() == pytest.approx(_objective(H, *args), abs=1e-12)
    for i, e in np.ndindex(H.shape):
        step = np.zeros_like(H)
        step[i, e] = 1e-5
        expected = (_objective(H + step, *args) - _objective(H - step, *args)) / 2e-5
        assert slope[0, i, e].item() == pytest.approx(expected, abs=1e-8)


def test_endless_entropy_bonus_is_the_uniform_gate():
    X, y = make_table(n=90, noise=2.0)
    experts = [("a", slice(0, 4)), ("b", slice(4, 9))]

    def fit(gate):
        return GatedConceptBottleneckClassifier(
            ConceptBottleneckClassifier(alpha=1.0), gate, experts=experts, guard=False, cv=3
        ).fit(X, y)

    uniform, free = fit("uniform"), fit(LinearGate(penalty=0.1))
    endless = fit(LinearGate(penalty=0.1, entropy=1e7))
    np.testing.assert_allclose(endless.gate_weights(X), 0.5, atol=1e-5)
    np.testing.assert_allclose(endless.predict_proba(X), uniform.predict_proba(X), atol=1e-5)
    assert np.abs(free.gate_weights(X) - 0.5).max() > 0.05


def test_balance_forbids_one_expert_for_all_but_lets_rows_be_sure():
    x, S, y, weights = _problem(n=400)
    S[:, 1] += 4 * np.random.default_rng(1).normal(size=(400, 3))  # the worse one everywhere
    present = np.ones((400, 2), dtype=bool)

    def fit(**bonus):
        states, _ = fit_linear_gate(x, S[None], y, weights[None], present, "logit", 1.0, **bonus)
        G = gate_weights(states[0], x, present)
        return np.average(G, axis=0, weights=weights), routing_information(G, weights)

    free, balanced, uniform = fit(), fit(balance=50.0), fit(entropy=50.0)
    assert free[0][0] > 0.6
    np.testing.assert_allclose(balanced[0], 0.5, atol=0.02)
    assert balanced[1] > 0.05
    assert uniform[1] < 1e-3


# ---- weights ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n_experts=st.integers(1, 4), spread=st.sampled_from([1, 1e3]))
def test_weights_are_a_softmax_over_the_present(seed, n_experts, spread):
    rng = np.random.default_rng(seed)
    x, present = rng.normal(size=(9, 2)), rng.random((9, n_experts)) > 0.4
    arrays = {"slope": spread * rng.normal(size=(n_experts, 2)), "bias": rng.normal(size=n_experts)}
    G = gate_weights(GateState("linear", arrays), x, present)
    H = x @ arrays["slope"].T + arrays["bias"]
    for i in range(9):
        here = np.flatnonzero(present[i])
        expected = np.zeros(n_experts)
        if len(here):
            expected[here] = softmax(H[i, here])
        np.testing.assert_allclose(G[i], expected, atol=1e-14)


def test_present_experts_whom_the_gate_gives_nothing_share_equally():
    present = np.array([[True, True, True], [True, True, False], [True, False, True], [False] * 3])
    G = gate_weights(GateState("expert", {"index": np.array(2)}), np.zeros((4, 0)), present)
    np.testing.assert_array_equal(G, [[0, 0, 1], [0.5, 0.5, 0], [0, 0, 1], [0, 0, 0]])


def test_uniform_and_constant_gates_renormalise_over_the_present():
    present = np.array([[True, True, True], [True, False, True]])
    uniform = gate_weights(GateState("uniform"), np.zeros((2, 0)), present)
    np.testing.assert_allclose(uniform, [[1 / 3] * 3, [0.5, 0, 0.5]])
    bias = np.log([0.2, 0.3, 0.5])
    constant = gate_weights(GateState("constant", {"bias": bias}), np.zeros((2, 0)), present)
    np.testing.assert_allclose(constant, [[0.2, 0.3, 0.5], [2 / 7, 0, 5 / 7]])


def test_mlp_gate_is_the_network_of_torch():
    rng = np.random.default_rng(0)
    arrays = {
        "hidden_weight": rng.normal(size=(5, 4)),
        "hidden_bias": rng.normal(size=5),
        "out_weight": rng.normal(size=(3, 5)),
        "out_bias": rng.normal(size=3),
    }
    network = torch.nn.Sequential(
        torch.nn.LayerNorm(4, elementwise_affine=False),
        torch.nn.Linear(4, 5),
        torch.nn.LeakyReLU(0.01),
        torch.nn.Linear(5, 3),
    ).double()
    for layer, name in ((1, "hidden"), (3, "out")):
        network[layer].weight.data = torch.as_tensor(arrays[f"{name}_weight"])
        network[layer].bias.data = torch.as_tensor(arrays[f"{name}_bias"])
    x = rng.normal(size=(8, 4))
    expected = torch.softmax(network(torch.as_tensor(x)), dim=1).detach().numpy()
    G = gate_weights(GateState("mlp", arrays), x, np.ones((8, 3), dtype=bool))
    np.testing.assert_allclose(G, expected, atol=1e-12)


def test_mlp_gate_starts_at_equal_weights_learns_and_repeats_itself():
    x, S, y, weights = _problem(n=150, scale=4.0)
    present = np.ones((150, 2), dtype=bool)

    def fit(max_iter, seed=0):
        gate = MLPGate(max_iter=max_iter, learning_rate=5e-3)
        states, _ = gate.fit_states(
            x, S[None], y, weights[None], present, "logit", device="cpu", seed=seed
        )
        return gate_weights(states[0], x, present)

    np.testing.assert_allclose(fit(1), 0.5, atol=0.03)
    G = fit(150)
    assert G[x[:, 0] > 0.5, 0].mean() > 0.6 and G[x[:, 0] < -0.5, 0].mean() < 0.4
    np.testing.assert_array_equal(G, fit(150))
    assert np.abs(G - fit(150, seed=1)).max() > 1e-4


# ---- pools -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), pool=st.sampled_from(POOLS), n_experts=st.integers(1, 4))
def test_pools_are_their_sums(seed, pool, n_experts):
    rng = np.random.default_rng(seed)
    S = 3 * rng.normal(size=(6, n_experts, 3))
    present = _presence(6, n_experts, seed)
    S[~present] = 0
    G = gate_weights(
        GateState("constant", {"bias": rng.normal(size=n_experts)}), S[:, :, 0], present
    )
    scale = rng.uniform(0.5, 2, 6)
    mixed = pool_logits(G, S, scale, pool)
    np.testing.assert_allclose(mixed, scale[:, None] * pooled(G, S, pool), atol=1e-12)


def test_pool_prob_of_very_sure_experts_stays_finite():
    S = np.array([[[800.0, 0, -800], [-800, 0, 800.0]]])
    mixed = pool_logits(np.array([[0.25, 0.75]]), S, 1.0, "prob")
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(softmax(mixed, axis=1), [[0.25, 0, 0.75]], atol=1e-12)


def test_routing_information_is_the_mutual_information_of_row_and_expert():
    rng = np.random.default_rng(0)
    G, weights = rng.dirichlet([0.5, 0.5, 0.5], size=30), rng.uniform(0.1, 3, 30)
    G[0] = [1, 0, 0]
    share = weights / weights.sum()
    marginal = share @ G
    expected = 0.0
    for i, e in np.ndindex(G.shape):
        if G[i, e] > 0:
            expected += share[i] * G[i, e] * np.log(G[i, e] / marginal[e])
    assert routing_information(G, weights) == pytest.approx(expected, abs=1e-12)
    assert routing_information(np.tile(G[1], (30, 1)), weights) == pytest.approx(0, abs=1e-12)
    assert routing_information(np.eye(3)[np.arange(30) % 3], np.ones(30)) == pytest.approx(
        np.log(3)
    )


# ---- the constant gate (item 10) -------------------------------------------------------------


@pytest.mark.parametrize("pool", ["logit", "prob"])
@pytest.mark.parametrize("n_experts", [2, 3])
def test_constant_gate_is_the_optimum_of_a_grid_and_beats_average_and_singles(pool, n_experts):
    _, S, y, weights = _problem(n=150, n_experts=n_experts, scale=1.0)
    present = np.ones((150, n_experts), dtype=bool)
    states, _ = fit_constant_gate(S[None], y, weights[None], present, pool)
    G = gate_weights(states[0], np.zeros((150, 0)), present)
    assert (G == G[0]).all()

    def loss(g):
        return losses(pooled(np.tile(g, (150, 1)), S, pool), y) @ weights / weights.sum()

    def along(points):
        return np.array([loss(g) for g in points])

    ticks = np.linspace(0.01, 0.99, 99 if n_experts == 2 else 33)
    if n_experts == 2:
        grid = np.c_[ticks, 1 - ticks]
    else:
        grid = np.array([(a, b, 1 - a - b) for a in ticks for b in ticks if a + b < 1])
    values = along(grid)
    best = grid[values.argmin()]
    np.testing.assert_allclose(G[0], best, atol=1.5 * (ticks[1] - ticks[0]))
    mine = loss(G[0])
    assert mine <= values.min() + 1e-9
    assert mine <= loss(np.full(n_experts, 1 / n_experts)) + 1e-9
    singles = np.eye(n_experts) * (1 - 3e-9) + 1e-9
    assert mine <= along(singles).min() + 1e-8


# ---- the linear gate (item 11) ---------------------------------------------------------------


def _linear_objective(flat, x, S, y, weights, penalty, pool, eta=0.0, balance=0.0):
    """Return the objective of MATHS section 2 and its gradient, by autograd of plain torch."""
    n_experts = S.shape[1]
    theta = torch.tensor(flat.reshape(n_experts, -1), requires_grad=True)
    W, c = theta[:, :-1], theta[:, -1]
    tensors = [torch.as_tensor(a) for a in (x, S, weights / weights.sum())]
    G = torch.softmax(tensors[0] @ W.T + c, dim=1)
    if pool == "prob":
        log_p = torch.log((G[:, :, None] * torch.softmax(tensors[1], 2)).sum(1))
    else:
        factor = n_experts if pool == "sum" else 1
        log_p = torch.log_softmax(factor * (G[:, :, None] * tensors[1]).sum(1), 1)
    loss = -(tensors[2] * log_p[torch.arange(len(y)), torch.as_tensor(y)]).sum()
    loss = loss + penalty / weights.sum() * (W.square().sum() + 0.1 * c.square().sum())
    loss = loss + eta * (tensors[2] @ (G * G.log()).sum(1))
    mean = tensors[2] @ G
    loss = loss + balance * (mean * mean.log()).sum()
    loss.backward()
    return loss.item(), theta.grad.numpy().ravel()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("n_experts", [2, 3])
def test_linear_gate_is_stationary_and_the_same_from_two_starts(pool, n_experts):
    x, S, y, weights = _problem(n=200, n_experts=n_experts)
    present = np.ones((200, n_experts), dtype=bool)
    rng = np.random.default_rng(7)
    bonuses = {"entropy": 0.05, "balance": 0.02}
    optima = []
    for start in (None, rng.normal(size=(1, n_experts, 4))):
        states, n_iter = fit_linear_gate(
            x, S[None], y, weights[None], present, pool, 20.0, start=start, **bonuses
        )
        flat = np.c_[states[0].arrays["slope"], states[0].arrays["bias"]].ravel()
        _, gradient = _linear_objective(flat, x, S, y, weights, 20.0, pool, 0.05, 0.02)
        assert np.linalg.norm(gradient) < 1e-6
        assert 0 < n_iter < 500
        optima.append(flat)
    np.testing.assert_allclose(optima[0], optima[1], atol=1e-5)
    assert np.abs(optima[0]).max() > 0.05


def test_experts_that_are_sure_of_different_classes_have_a_finite_loss_and_slope():
    logits = torch.tensor([[[[0.0, -2000.0, -9000.0], [-2000.0, 0.0, -9000.0]]]])
    objective = PooledLoss(
        logits.double(),
        torch.tensor([0]),
        torch.ones(1, 1, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.bool),
        "logit",
    )
    loss, slope = objective(torch.zeros(1, 1, 2, dtype=torch.float64))
    assert loss.item() == pytest.approx(np.log(2))
    # d/dh of log(1 + exp(2000 (1 - 2 g))) at g = 1/2, g the first expert's weight
    np.testing.assert_allclose(slope[0, 0], [-500.0, 500.0])


def test_symmetric_gate_of_two_experts_is_the_pinned_sigmoid_with_half_the_penalty():
    x, S, y, weights = _problem(n=200)
    n = weights.sum()
    states, _ = fit_linear_gate(
        x, S[None], y, weights[None], np.ones((200, 2), dtype=bool), "logit", 20.0
    )

    def pinned(flat, strength):
        g = expit(x @ flat[:3] + flat[3])
        loss = losses(g[:, None] * S[:, 1] + (1 - g)[:, None] * S[:, 0], y) @ weights / n
        return loss + strength / n * (flat[:3] @ flat[:3] + 0.1 * flat[3] ** 2)

    G = gate_weights(states[0], x, np.ones((200, 2), dtype=bool))
    for strength, same in ((10.0, True), (20.0, False)):
        found = minimize(pinned, np.zeros(4), args=(strength,), tol=1e-10).x
        gap = np.abs(G[:, 1] - expit(x @ found[:3] + found[3])).max()
        assert bool(gap < 1e-5) is same


def test_folds_solved_as_a_stack_are_the_folds_solved_alone():
    x, S, y, weights = _problem(n=120)
    present = _presence(120, 2)
    shares = weights * (np.arange(120) % 3 != np.c_[:3])
    stack = np.stack([S, 1.3 * S, 0.6 * S])
    together, _ = fit_linear_gate(x, stack, y, shares, present, "logit", 20.0)
    for f in range(3):
        alone, _ = fit_linear_gate(x, stack[[f]], y, shares[[f]], present, "logit", 20.0)
        for name in ("slope", "bias"):
            np.testing.assert_allclose(together[f].arrays[name], alone[0].arrays[name], atol=1e-6)
        kept = shares[f] > 0
        rest, _ = fit_linear_gate(
            x[kept],
            stack[[f]][:, kept],
            y[kept],
            shares[[f]][:, kept],
            present[kept],
            "logit",
            20.0,
        )
        np.testing.assert_allclose(rest[0].arrays["slope"], alone[0].arrays["slope"], atol=1e-6)


# ---- gate inputs -----------------------------------------------------------------------------


def _experts(n=80, sizes=(12, 14), seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 4)) * [5, 3, 2, 1]
    return [
        ExpertData(
            "ab"[e],
            shared @ rng.normal(size=(4, m)) + rng.normal(size=(n, m)) + 3,
            np.ones(n, dtype=bool),
        )
        for e, m in enumerate(sizes)
    ]


def test_gate_inputs_are_the_first_sixteen_whitened_components_of_all_similarities():
    data = _experts()
    none = np.empty((80, 0))
    state = fit_gate_inputs(data, none, np.ones(80), "components")
    inputs = gate_inputs(state, data, none, np.ones((80, 2), dtype=bool))
    D = np.concatenate([expert.values for expert in data], axis=1)
    Z = (D - D.mean(0)) / D.std(0)
    expected = PCA(16).fit_transform(Z)
    expected /= expected.std(axis=0)
    assert inputs.shape == (80, 16 + 2)
    signs = np.sign((inputs[:, :16] * expected).sum(axis=0))
    np.testing.assert_allclose(inputs[:, :16], expected * signs, atol=1e-8)
    np.testing.assert_array_equal(inputs[:, 16:], 0)


def test_gate_inputs_of_a_weight_of_two_are_those_of_the_row_twice():
    data, none = _experts(), np.empty((80, 0))
    weights = np.random.default_rng(0).integers(0, 3, 80)
    twice = [
        ExpertData(d.name, d.values.repeat(weights, axis=0), np.ones(weights.sum(), bool))
        for d in data
    ]
    weighted = fit_gate_inputs(data, none, weights.astype(float), "components")
    repeated = fit_gate_inputs(
        twice, np.empty((len(twice[0].values), 0)), np.ones(weights.sum()), "components"
    )
    for name in ("mean", "scale", "components"):
        np.testing.assert_allclose(weighted[name], repeated[name], atol=1e-7)


def test_absent_gate_inputs_are_zero_beside_an_indicator():
    data = _experts(sizes=(2, 3))
    data[1].present[:3] = False
    data[1].values[:3] = np.nan
    columns = np.array([[np.nan], *[[float(i)] for i in range(79)]])
    state = fit_gate_inputs(data, columns, np.ones(80), "similarities")
    present = np.stack([d.present for d in data], axis=1)
    inputs = gate_inputs(state, data, columns, present)
    first, second = data[0].values, data[1].values
    z = (second - second[3:].mean(0)) / second[3:].std(0)
    np.testing.assert_allclose(inputs[:, :2], (first - first.mean(0)) / first.std(0), atol=1e-10)
    np.testing.assert_allclose(inputs[3:, 2:5], z[3:], atol=1e-10)
    np.testing.assert_array_equal(inputs[:3, 2:5], 0)
    known = columns[1:, 0]
    np.testing.assert_allclose(inputs[1:, 5], (known - known.mean()) / known.std(), atol=1e-10)
    assert inputs[0, 5] == 0 and inputs[0, 6] == 1 and (inputs[1:, 6] == 0).all()
    np.testing.assert_array_equal(inputs[:, 7:], ~present)
