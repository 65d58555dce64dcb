"""Stacks of associations: each member is the problem it would be by itself."""

import numpy as np
import pytest
import torch

from skmoecbm._association import AssociationProblem
from skmoecbm._lbfgs import minimize_stack
from skmoecbm._member_stack import MemberStack
from skmoecbm._similarities import FoldedSimilarities, Similarities
from skmoecbm._stacked_fits import _nearest

DEVICE = torch.device("cpu")


def _problems(kind, folded):
    """Return problems on the same rows under two priors, each with three sets of row weights."""
    rng = np.random.default_rng(0)
    n, m = 60, 8
    images, texts = rng.normal(size=(n, 5)), rng.normal(size=(m, 5))
    similarities = (
        FoldedSimilarities(images, texts, DEVICE)
        if folded
        else Similarities(images @ texts.T, DEVICE)
    )
    codes = torch.as_tensor(np.arange(n) % 3)
    targets = torch.nn.functional.one_hot(codes, 3).double()
    cells = None
    if kind == "two classes":
        targets = targets[:, :1]
    elif kind == "labels":
        cells = torch.as_tensor(rng.uniform(0.5, 2.0, size=(n, 3)))
        targets[::4] = 1.0
    weights = torch.as_tensor(rng.uniform(0.5, 2.0, size=(3, n)))
    weights[1, :20] = weights[2, 40:] = 0.0
    if kind == "a class is missing":
        weights[1, codes == 2] = 0.0
    rate = targets.mean(0)
    priors = [None, torch.as_tensor(rng.normal(size=(targets.shape[1], m)))]
    return [
        AssociationProblem(similarities, targets, weights, prior, cells=cells, base_rate=rate)
        for prior in priors
    ]


KINDS = ["several classes", "two classes", "labels", "a class is missing"]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_each_problem(kind, folded):
    problems = _problems(kind, folded)
    members = [(0, 0, 0.5, 1.0), (1, 2, 7.0, 1.0), (0, 1, 7.0, 1.0), (1, 1, 0.5, 1.0)]
    stack = MemberStack(problems, members)
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(stack.shape, dtype=torch.float64, generator=generator)
    b = torch.randn(stack.shape[:2], dtype=torch.float64, generator=generator)
    for chosen in ([0, 1, 2, 3], [2, 1]):
        found = stack.loss_and_gradient(a[chosen], b[chosen], torch.as_tensor(chosen))
        for i, number in enumerate(chosen):
            p, fold, alpha, _ = members[number]
            expected = problems[p].loss_and_gradient(
                a[number].expand(3, -1, -1), b[number].expand(3, -1), torch.tensor(alpha)
            )
            for part, whole in zip(found, expected, strict=True):
                torch.testing.assert_close(part[i], whole[fold], rtol=1e-10, atol=1e-12)


def test_a_prior_is_as_strong_as_its_member_says():
    problems = _problems("several classes", False)
    stack = MemberStack(problems, [(1, 0, 1.0, 0.25), (1, 0, 1.0, 3.0), (0, 0, 1.0, 3.0)])
    torch.testing.assert_close(stack.prior[0], 0.25 * problems[1].prior[0])
    torch.testing.assert_close(stack.prior[1], 3.0 * problems[1].prior[0])
    assert not stack.prior[2].any()


def test_rows_meet_only_the_members_that_learn_from_them():
    stack = MemberStack(_problems("several classes", False), [(0, f, 1.0, 1.0) for f in range(3)])
    for *_, share, learns in stack._blocks:
        assert (share[:, learns] > 0).all() and (share[:, ~learns] == 0).all()
    assert sum(len(block[0]) for block in stack._blocks) == 60
    assert len(stack._blocks) == 3


def test_problems_that_are_done_drop_out():
    curvatures = torch.tensor([[1.0, 1.0], [1.0, 30.0], [1.0, 4000.0], [1.0, 1.0]])
    curvatures, seen = curvatures.double(), []

    def narrow(rows):
        def fun(x):
            seen.append(len(x))
            own = curvatures[rows]
            return 0.5 * (own * (x - 1.0) ** 2).sum(1) + (x - 1.0).pow(4).sum(1), (
                own * (x - 1.0) + 4.0 * (x - 1.0) ** 3
            )

        return fun

    start = torch.zeros(4, 2, dtype=torch.float64)
    start[3] = 1.0
    every = narrow(torch.arange(4))
    x, steps, converged = minimize_stack(every, start, max_iter=100, tol=1e-9, narrow=narrow)
    torch.testing.assert_close(x, torch.ones(4, 2, dtype=torch.float64))
    assert converged.all() and seen[0] == 4 and min(seen) == 1
    in_step = sum(seen)
    seen.clear()
    again, more, _ = minimize_stack(every, start, max_iter=100, tol=1e-9)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)
    assert more == steps and sum(seen) > 1.5 * in_step


# ---- starts ----------------------------------------------------------------------------------


def test_what_two_sets_of_rows_differ_by_is_taken_over_to_a_third():
    rng = np.random.default_rng(0)
    everything, other = rng.uniform(0.5, 2.0, 90), rng.uniform(0.5, 2.0, 90)
    held_out = np.arange(90) < 20
    other[held_out] = everything[held_out]
    known = [everything, everything * ~held_out, other]
    parts = _nearest(other * ~held_out, known)
    assert parts.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(parts, [-1.0, 1.0, 1.0], atol=0.05)
    # Of rows that it has seen the solution itself is the best there is.
    np.testing.assert_allclose(_nearest(everything, known), [1.0, 0.0, 0.0], atol=0.05)


def test_rows_beyond_those_of_a_known_set_weigh_nothing_in_it():
    short, long = np.ones(5), np.r_[np.ones(5), np.full(3, 2.0)]
    np.testing.assert_allclose(_nearest(long, [short, long]), [0.0, 1.0], atol=0.05)
