import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from skmoecbm.moe._penalties import importance_cv2, jensen_shannon, switch_loss, z_loss
from skmoecbm.moe._pool import ExpertPool
from skmoecbm.moe._routing import Router, route

GATES = torch.tensor(
    [[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]], dtype=torch.float64
)


def drawn(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def test_importance_is_that_of_the_published_example():
    assert float(importance_cv2(GATES)) == pytest.approx(0.03875, abs=1e-12)


def test_switch_loss_is_that_of_the_published_example():
    chosen = torch.zeros_like(GATES, dtype=bool).scatter(1, GATES.argmax(1, keepdim=True), True)
    assert float(switch_loss(GATES, chosen)) == pytest.approx(1.0875, abs=1e-12)


def test_switch_loss_may_lie_below_its_uniform_value():
    p = torch.tensor([[0.5, 0.5]] * 3 + [[0.0, 1.0]], dtype=torch.float64)
    first = torch.tensor([[True, False]] * 3 + [[False, True]])
    assert float(switch_loss(p, first)) == pytest.approx(0.875, abs=1e-12)


def test_the_printed_balance_loss_is_zero_where_the_right_one_sees_collapse():
    p = torch.tensor([[1.0, 0.0, 0.0]] * 4, dtype=torch.float64)
    chosen = p > 0
    printed = (chosen.double().mean(0) - p.mean(0)).sum()
    assert float(printed) == 0.0
    assert float(switch_loss(p, chosen)) == pytest.approx(3.0)
    assert float(importance_cv2(p)) == pytest.approx(2.0)


def test_share_of_choices_is_of_all_n_times_k():
    p = torch.full((6, 4), 0.25, dtype=torch.float64)
    chosen = torch.tensor([[True, True, False, False], [False, False, True, True]] * 3)
    assert float(switch_loss(p, chosen)) == pytest.approx(1.0)


def test_a_row_of_weight_two_is_the_row_twice():
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    rows = [0, 0, 1, 3]
    logits, chosen = drawn(4, 3), GATES >= 0.4
    assert torch.allclose(importance_cv2(GATES, weights), importance_cv2(GATES[rows]))
    assert torch.allclose(
        switch_loss(GATES, chosen, weights), switch_loss(GATES[rows], chosen[rows])
    )
    assert torch.allclose(z_loss(logits, weights), z_loss(logits[rows]))


def test_balance_gradients_go_through_probabilities_alone_and_level_them():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    weights, probabilities = route(logits, 1)
    switch_loss(probabilities, weights > 0).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1] < 0).all()


def test_jensen_shannon_of_two_modalities():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], dtype=torch.float64)
    assert float(jensen_shannon(p)) == pytest.approx(0.2050380292860856, abs=1e-14)
    assert float(jensen_shannon(p[:1].repeat(3, 1))) == pytest.approx(0.0, abs=1e-14)
    assert float(jensen_shannon(torch.eye(3, dtype=torch.float64))) == pytest.approx(np.log(3))


def test_z_loss_is_the_mean_squared_log_sum_exp():
    logits = drawn(5, 3)
    expected = np.mean(np.log(np.exp(logits.numpy()).sum(1)) ** 2)
    assert float(z_loss(logits)) == pytest.approx(expected)


def test_noisy_top_k_of_the_published_example():
    router = Router(2, 2, "softmax", noisy=True)
    with torch.no_grad():
        router.centres.copy_(torch.eye(2))
        router.noise.copy_(0.5 * torch.ones(2, 2))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    noisy = router(x) + torch.tensor([[1.0, -1.0]]) * router.deviation(x)
    expected = softmax([1 + np.log1p(np.exp(1.5)), 2 - np.log1p(np.exp(1.5))])
    weights, _ = route(noisy, 2)
    assert np.allclose(weights.detach().numpy(), expected)
    assert np.allclose(expected, [0.917, 0.083], atol=5e-4)


@given(st.integers(1, 5), st.integers(0, 1000))
def test_route_keeps_k_and_renormalises_over_them(k, seed):
    logits = drawn(6, 5, seed=seed)
    weights, probabilities = (part.numpy() for part in route(logits, k))
    full = softmax(logits.numpy(), axis=1)
    assert np.allclose(probabilities, full)
    for row, p, w in zip(logits.numpy(), full, weights, strict=True):
        best = np.argsort(-row, kind="stable")[:k]
        expected = np.zeros(5)
        expected[best] = p[best] if k == 1 else p[best] / p[best].sum()
        assert np.allclose(w, expected)


def test_the_first_of_equals_are_chosen():
    weights, _ = route(torch.zeros(3, 6, dtype=torch.float64), 2)
    assert torch.equal(weights > 0, torch.tensor([[True, True] + 4 * [False]]).repeat(3, 1))


def test_a_single_choice_keeps_its_probability_so_that_the_router_learns():
    logits = drawn(4, 3).requires_grad_()
    route(logits, 1)[0].sum().backward()
    assert (logits.grad != 0).any(dim=1).all()


@given(st.floats(-6, 6), st.integers(0, 1000))
def test_laplace_gaps_are_bounded_however_far_the_row_is(exponent, seed):
    router = Router(3, 4, "laplace")
    with torch.no_grad():
        router.centres.copy_(drawn(4, 3, seed=seed))
        router.bias.copy_(drawn(4, seed=seed + 1))
        router.log_sharpness.fill_(0.3)
    x = drawn(5, 3, seed=seed + 2) * 10.0**exponent
    logits = router(x).detach().numpy()
    centres, bias = router.centres.detach().numpy(), router.bias.detach().numpy()
    for i in range(4):
        for j in range(4):
            bound = abs(bias[i] - bias[j])
            bound += np.exp(0.3) * np.linalg.norm(centres[i] - centres[j])
            assert (np.abs(logits[:, i] - logits[:, j]) <= bound * (1 + 1e-9) + 1e-9).all()


def test_gaussian_gaps_are_not_bounded():
    router = Router(1, 2, "gaussian")
    with torch.no_grad():
        router.centres.copy_(torch.tensor([[0.0], [1.0]]))
    logits = router(torch.tensor([[1e6]], dtype=torch.float64))[0].detach()
    assert abs(float(logits[0] - logits[1])) > 1e6


def test_laplace_gradient_is_finite_at_a_centre():
    router = Router(2, 2, "laplace")
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    router(x).sum().backward()
    for tensor in (x, *router.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_the_squared_form_is_an_affine_softmax():
    router, affine = Router(3, 4, "gaussian"), Router(3, 4, "softmax")
    with torch.no_grad():
        router.centres.copy_(drawn(4, 3))
        router.bias.copy_(drawn(4, seed=1))
        router.log_sharpness.fill_(-0.2)
        s = router.log_sharpness.exp()
        affine.centres.copy_(2 * s * router.centres)
        affine.bias.copy_(router.bias - s * router.centres.square().sum(1))
    x = drawn(7, 3, seed=2)
    assert torch.allclose(router(x).softmax(1), affine(x).softmax(1), atol=1e-12)
    laplace = Router(3, 4, "laplace")
    laplace.load_state_dict(router.state_dict())
    assert not torch.allclose(laplace(x).softmax(1), affine(x).softmax(1), atol=1e-3)


@pytest.mark.parametrize("gating", ["softmax", "laplace", "gaussian"])
def test_a_router_starts_by_sending_rows_to_the_nearest_centre(gating):
    centres = drawn(4, 3)
    router = Router(3, 4, gating)
    router.start(centres, 2.0)
    x = drawn(50, 3, seed=5)
    nearest = torch.cdist(x, centres).argmin(1)
    assert torch.equal(router(x).argmax(1), nearest)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_grouped_dispatch_equals_the_dense_sum_forward_and_gradient(k):
    pool = ExpertPool(4, 5, 6, 3)
    pool.start(torch.Generator().manual_seed(0))
    logits = drawn(20, 4)
    logits[:, 3] -= 100.0 if k < 4 else 0.0  # an expert that nobody is sent to
    logits.requires_grad_()
    x = drawn(20, 5, seed=1).requires_grad_()
    found = []
    for call in (pool.forward, pool.dense):
        for tensor in (x, logits, *pool.parameters()):
            tensor.grad = None
        out = call(x, route(logits, k)[0])
        out.square().sum().backward()
        grads = [t.grad.clone() for t in (x, logits, *pool.parameters())]
        found.append([out.detach(), *grads])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    if k < 4:
        assert (found[0][-4][3] == 0).all()


def test_no_row_at_all_is_no_error():
    pool = ExpertPool(2, 3, 4, 5)
    assert pool(torch.zeros(0, 3).double(), torch.zeros(0, 2).double()).shape == (0, 5)


def test_a_rows_answer_does_not_depend_on_the_others():
    pool = ExpertPool(3, 4, 8, 2)
    pool.start(torch.Generator().manual_seed(0))
    x, weights = drawn(9, 4), route(drawn(9, 3, seed=1), 2)[0]
    whole = pool(x, weights)
    alone = torch.cat([pool(x[i : i + 1], weights[i : i + 1]) for i in range(9)])
    assert torch.allclose(whole, alone, atol=1e-12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(whole[order], pool(x[order], weights[order]), atol=1e-12)
