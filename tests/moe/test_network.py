"""How a `SparseNetwork` begins: clusters, silence, and modalities that add up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skmoecbm._target import Target
from skmoecbm.moe._network import Shape, SparseNetwork, sharpness
from skmoecbm.moe._rows import Rows


def begun(x, present, y, **settings):
    """Return a network at the start of its training on rows x, [(n, p_m)]."""
    settings = {
        "n_experts": 4,
        "top_k": 1,
        "hidden": 5,
        "router": "joint",
        "gating": "softmax",
        "noisy": False,
        "learned_missing": False,
    } | settings
    shape = Shape(widths=tuple(part.shape[1] for part in x), n_outputs=3, **settings)
    target = Target(y, 3, np.ones(len(y)), torch.device("cpu"))
    rows = Rows([torch.as_tensor(part) for part in x], torch.as_tensor(present), target)
    network = SparseNetwork(shape)
    generator = torch.Generator().manual_seed(0)
    log_odds = torch.zeros(3, dtype=torch.float64)
    network.start(rows, log_odds, np.random.RandomState(0), generator)
    return SimpleNamespace(network=network, rows=rows)


def three_parts(n=60):
    rng = np.random.default_rng(0)
    present = rng.random((n, 3)) < 0.6
    present[~present.any(axis=1), 0] = True
    return [rng.standard_normal((n, 4)) for _ in range(3)], present, rng.integers(0, 3, n)


@pytest.mark.parametrize("gating", ["softmax", "laplace", "gaussian"])
def test_routers_begin_at_the_clusters_of_what_they_see(gating):
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 4, 300)
    x = 6.0 * rng.standard_normal((4, 3))[blob] + rng.standard_normal((300, 3)) / 3
    made = begun([x], np.ones((300, 1), bool), rng.integers(0, 3, 300), gating=gating)
    _, (routing,) = made.network(made.rows.x, made.rows.present)
    chosen = routing.logits.argmax(1).numpy()
    table = np.array([[(chosen[blob == b] == e).mean() for e in range(4)] for b in range(4)])
    assert sorted(table.argmax(axis=1)) == [0, 1, 2, 3]
    assert table.max(axis=1).min() > 0.99
    assert routing.probabilities.max(1).values.median() > 0.6


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
def test_experts_begin_silent_and_the_linear_part_has_no_slope_left(router):
    made = begun(*three_parts(), router=router)
    logits, _ = made.network(made.rows.x, made.rows.present)
    everything = made.network._all(made.rows.x, made.rows.present)
    linear = everything @ made.network.linear.T + made.network.intercept
    assert torch.allclose(logits, linear)
    loss = made.rows.losses(linear).sum() + made.network.linear.square().sum() / 2
    slopes, offset = torch.autograd.grad(loss, [made.network.linear, made.network.intercept])
    assert slopes.abs().max() < 2e-3 and offset.abs().max() < 2e-3


def test_modalities_that_are_there_add_up_at_first():
    made = begun(*three_parts())
    _, share = made.network._parts(made.rows.x, made.rows.present)
    assert torch.allclose(share, made.rows.present.double() / 3)
    with torch.no_grad():
        made.network.log_voice.zero_()  # the plain average
    _, share = made.network._parts(made.rows.x, made.rows.present)
    assert torch.allclose(share.sum(1), torch.ones(60, dtype=torch.float64))
    learned = begun(*three_parts(), learned_missing=True)
    _, share = learned.network._parts(learned.rows.x, learned.rows.present)
    assert learned.network.log_voice is None
    assert torch.allclose(share, torch.full_like(share, 1 / 3))


def test_a_learned_vector_stands_for_what_is_missing():
    made = begun(*three_parts(), learned_missing=True)
    parts, _ = made.network._parts(made.rows.x, made.rows.present)
    for m, part in enumerate(parts):
        gone = ~made.rows.present[:, m]
        assert gone.any() and torch.allclose(part[gone], made.network.missing[m].detach())


def test_an_expert_left_out_is_chosen_by_nobody():
    for router, pool in (("joint", 0), ("per_modality", 0), ("disjoint", 2)):
        made = begun(*three_parts(), router=router, top_k=2)
        _, routings = made.network(made.rows.x, made.rows.present, without=(pool, 1))
        for r, routing in enumerate(routings):
            left_out = router != "disjoint" or r == pool
            assert bool((routing.weights[:, 1] == 0).all()) == left_out
            sums = routing.weights.sum(1)[routing.present]
            assert torch.allclose(sums, torch.ones_like(sums))


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
def test_routers_begin_at_rows_that_have_what_they_see(router):
    x, present, y = three_parts(90)
    x = [part + 5.0 for part in x]  # far from 0, which is what stands where a row has nothing
    x = [np.where(present[:, m, None], part, 0.0) for m, part in enumerate(x)]
    if router == "joint":  # of one modality alone: of several it sees the marks of who is missing
        x, present = x[1:2], present[:, 1:2]
    made = begun(x, present, y, router=router, gating="laplace", n_experts=3)
    parts, _ = made.network._parts(made.rows.x, made.rows.present)
    assert len(made.network.routers) == len(parts)
    for m, one in enumerate(made.network.routers):
        seen = parts[m].detach().numpy()[present[:, m]]
        centres = one.centres.detach().numpy()
        nearest = np.linalg.norm(seen[:, None] - centres, axis=2).argmin(axis=1)
        # what k-means ends at: each centre is the mean of the rows that are nearest to it
        for e in range(3):
            assert np.allclose(centres[e], seen[nearest == e].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("gating", ["softmax", "laplace", "gaussian"])
def test_the_median_row_prefers_its_expert_by_two_logits_at_first(gating):
    x = np.random.default_rng(0).standard_normal((200, 3))
    made = begun([x], np.ones((200, 1), bool), np.arange(200) % 3, gating=gating)
    _, (routing,) = made.network(made.rows.x, made.rows.present)
    best = np.sort(routing.logits.detach().numpy(), axis=1)
    assert np.median(best[:, -1] - best[:, -2]) == pytest.approx(2.0)


@pytest.mark.parametrize("gating", ["softmax", "laplace", "gaussian"])
@pytest.mark.parametrize("n_experts", [1, 4])
def test_rows_that_are_all_alike_begin_with_finite_routing(gating, n_experts):
    settings = {"gating": gating, "n_experts": n_experts}
    made = begun([np.ones((20, 2))], np.ones((20, 1), bool), np.arange(20) % 3, **settings)
    logits, (routing,) = made.network(made.rows.x, made.rows.present)
    assert torch.isfinite(logits).all() and torch.isfinite(routing.logits).all()


def test_rows_half_way_between_two_experts_divide_by_nothing():
    with np.errstate(all="raise"):
        assert sharpness(np.zeros((3, 1)), np.array([[1.0], [-1.0]]), "laplace") == 1e3
