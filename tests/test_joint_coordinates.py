import numpy as np
import pytest
import torch
from scipy.special import softmax

from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier, JointTraining
from skmoecbm import _joint_coordinates as coordinates
from skmoecbm._joint_coordinates import Stretch

EXPERTS = [("a", slice(0, 6)), ("b", slice(6, 16))]


def correlated(n, m, seed=0, power=2.0):
    """Return rows (n, m) whose variances along some axes fall as a power law."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(m, m)))
    rows = (rng.normal(size=(n, m)) * np.arange(1, m + 1) ** -power) @ axes.T
    return (rows - rows.mean(0)) / rows.std(0)


def stretch_of(z, weights=None, n_outputs=3, least=0.0):
    weights = np.ones(len(z)) if weights is None else weights
    return Stretch(torch.tensor(z), torch.tensor(weights), n_outputs, least)


def matrix_of(stretch, m):
    return stretch(torch.eye(m, dtype=torch.float64)).numpy()


@pytest.mark.parametrize(("n", "m"), [(900, 8), (400, 30), (12, 20)])
def test_coordinates_are_those_of_the_weighted_correlations(n, m):
    z, weights = correlated(n, m), np.random.default_rng(1).uniform(0.5, 2, n)
    weights[::7] = 0
    C = matrix_of(stretch_of(z, weights), m)
    np.testing.assert_allclose(C, C.T, atol=1e-10 * np.abs(C).max())
    moments = (z * weights[:, None]).T @ z / weights.sum()
    # C^-2 is the correlations and a multiple of the identity, times a unit of length.
    inverse = np.linalg.inv(C @ C)
    off = ~np.eye(m, dtype=bool)
    unit = (inverse * moments)[off].sum() / (moments**2)[off].sum()
    floor = inverse / unit - moments
    np.testing.assert_allclose(floor, np.eye(m) * floor[0, 0], atol=1e-7)
    # 30 rows per number learned: beyond so many directions nothing is stretched further.
    spectrum = np.linalg.eigvalsh(moments)[::-1]
    n_directions = min(max(1, (weights > 0).sum() // 90), len(spectrum))
    assert floor[0, 0] == pytest.approx(spectrum[n_directions - 1], rel=1e-6)


def test_order_of_concepts_and_a_copy_of_one_change_nothing():
    z = correlated(300, 9)
    z[:, 8] = z[:, 0]
    order = np.random.default_rng(2).permutation(9)
    C, other = matrix_of(stretch_of(z), 9), matrix_of(stretch_of(z[:, order]), 9)
    np.testing.assert_allclose(other, C[np.ix_(order, order)], atol=1e-9)
    np.testing.assert_allclose(C[8, :8], np.r_[C[0, 8], C[0, 1:8]], atol=1e-9)


def test_many_concepts_are_stretched_without_a_matrix(monkeypatch):
    z = correlated(60, 25)
    dense = matrix_of(stretch_of(z), 25)
    monkeypatch.setattr(coordinates, "_DENSE_SIZE", 24)
    stretch = stretch_of(z)
    assert stretch._whole is None
    np.testing.assert_allclose(matrix_of(stretch, 25), dense, atol=1e-11)


def test_a_penalty_bounds_what_is_stretched():
    z = correlated(3000, 12)
    free, bound = matrix_of(stretch_of(z), 12), matrix_of(stretch_of(z, least=1e6), 12)
    assert np.linalg.cond(free) > 10
    np.testing.assert_allclose(bound, np.eye(12) * bound[0, 0], atol=1e-4)


def _mixture(training, **head):
    head = {"prior": None, **head}
    return GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(**head),
        "uniform",
        experts=EXPERTS,
        training=training,
        random_state=0,
    )


@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_the_first_step_is_adams_in_these_coordinates(l1):
    X = np.c_[correlated(240, 6), correlated(240, 10, seed=3)]
    y = np.random.default_rng(4).integers(0, 3, 240)
    # One step on all rows: Adam's first is the sign of the gradient.
    training = JointTraining(
        max_epochs=1, batch_size=500, validation_fraction=0.0, association_lr=0.01, l1=l1
    )
    clf = _mixture(training).fit(X, y)
    rate = np.bincount(y) / len(y)
    residual = softmax(np.tile(np.log(rate), (240, 1)), axis=1) - np.eye(3)[y]
    for e, (_, columns) in enumerate(EXPERTS):
        head = clf.heads_[e]
        z = (X[:, columns] - head.mean_) / head.scale_
        gradient = 0.5 * residual.T @ z / 240
        if l1:  # the penalty is about single concepts
            C = np.eye(z.shape[1])
        else:
            C = matrix_of(stretch_of(z), z.shape[1])
        expected = -0.01 * np.sign(gradient @ C) @ C
        np.testing.assert_allclose(head.association_, expected, rtol=1e-3, atol=1e-5)


def test_concepts_that_never_vary_leave_the_coordinates_alone():
    np.testing.assert_array_equal(matrix_of(stretch_of(np.zeros((50, 4))), 4), np.eye(4))


def test_correlated_concepts_are_learned_in_few_epochs(monkeypatch):
    X = np.c_[correlated(1500, 6, power=3.0), correlated(1500, 10, seed=3, power=3.0)]
    # The class stands along what varies least.
    _, axes = np.linalg.eigh(np.cov(X[:, 6:].T))
    score = X[:, 6:] @ axes[:, :3]
    y = (score / score.std(0)).argmax(axis=1)
    training = JointTraining(max_epochs=5)
    found = _mixture(training).fit(X, y).score(X, y)
    monkeypatch.setattr("skmoecbm._joint_fit.stretches", lambda model, *_: [None] * 2)
    along_concepts = _mixture(training).fit(X, y).score(X, y)
    assert found > 0.85 and along_concepts < 0.6
