"""What is said about fits that stopped short, and that nothing is said about those that did not."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from skmoecbm import _constrained as constrained
from skmoecbm import _heads as heads
from skmoecbm._lbfgs import minimize_stack
from tests.brute_force import association_gradient, make_table, standardised

EXPERTS = [("a", slice(0, 4)), ("b", slice(4, 9))]


def _fit(estimator, X, y):
    """Return the fitted estimator and its convergence warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(X, y)
    return estimator, [str(w.message) for w in caught if w.category is ConvergenceWarning]


def test_fit_that_says_nothing_is_at_its_optimum_however_few_steps_it_had():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    X = 6.0 * rng.normal(size=(300, 200)) + rng.normal(size=(3, 200))[y]
    Z, alpha = standardised(X)[0], 1e-3

    def distance(clf):
        parts = association_gradient(Z, y, clf.association_, clf.intercept_, 0, alpha)
        return parts[2]

    best, said = _fit(ConceptBottleneckClassifier(alpha=alpha, max_iter=1000), X, y)
    assert said == [] and best.n_iter_ > 4
    quiet = []
    for steps in range(1, best.n_iter_ + 1):
        clf, said = _fit(ConceptBottleneckClassifier(alpha=alpha, max_iter=steps), X, y)
        if not said:
            quiet.append(steps)
            assert distance(clf) - distance(best) < 1e-4, f"quiet after {steps} steps"
    assert quiet and quiet[0] > 1


def test_small_problem_that_newton_finishes_needs_no_warning():
    X, y = make_table()
    clf, said = _fit(ConceptBottleneckClassifier(alpha=1.0, max_iter=1), X, y)
    parts = association_gradient(standardised(X)[0], y, clf.association_, clf.intercept_, 0, 1.0)
    assert said == [] and max(np.abs(parts[0]).max(), np.abs(parts[1]).max()) < 1e-8


@pytest.mark.parametrize("activation", ["softmax", "nonnegative"])
def test_constrained_fits_say_when_they_stop_short(activation):
    X, y = make_table(sizes=(30,), noise=2.0)
    for steps, short in ((1, True), (1000, False)):
        head = ConceptBottleneckClassifier(activation=activation, alpha=0.3, max_iter=steps)
        assert (_fit(head, X, y)[1] != []) is short


def test_line_search_that_gave_up_counts_only_near_the_optimum(monkeypatch):
    X, y = make_table(sizes=(5,))
    solved = constrained.minimize
    for slope, short in ((0.0, False), (1.0, True)):

        def gave_up(*args, slope=slope, **settings):
            found = solved(*args, **settings)
            found.status, found.success, found.jac = 2, False, found.jac + slope * (found.x > 0)
            return found

        monkeypatch.setattr(constrained, "minimize", gave_up)
        head = ConceptBottleneckClassifier(activation="nonnegative", alpha=1.0)
        assert (_fit(head, X, y)[1] != []) is short


def test_mixture_says_once_which_fits_stopped_short():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    X = rng.normal(size=(200, 400)) + rng.normal(size=(3, 400))[y]
    experts = [("a", slice(0, 4)), ("b", slice(4, None))]
    head = ConceptBottleneckClassifier(max_iter=2)
    _, said = _fit(GatedConceptBottleneckClassifier(head, experts=experts), X, y)
    assert len(said) == 1
    assert "the search for alpha, expert 'b' on all rows, expert 'b' on folds" in said[0]
    assert "'a'" not in said[0], "so few columns are solved by Newton's method"
    head.set_params(alpha=1.0, max_iter=300)
    assert _fit(GatedConceptBottleneckClassifier(head, experts=experts), X, y)[1] == []


def test_folds_that_stopped_short_are_told_though_the_fit_on_all_rows_did_not(monkeypatch):
    X, y = make_table()
    solved = heads.solve

    def short_folds(problem, *args, **settings):
        *solution, converged = solved(problem, *args, **settings)
        return *solution, converged & (problem.shape[0] == 1)

    monkeypatch.setattr(heads, "solve", short_folds)
    head = ConceptBottleneckClassifier(alpha=1.0)
    _, said = _fit(GatedConceptBottleneckClassifier(head, experts=EXPERTS), X, y)
    assert len(said) == 1
    assert "steps: expert 'a' on folds, expert 'b' on folds. Increase" in said[0]


def test_search_among_nan_is_no_convergence_and_the_limit_of_float64_is():
    def walled(x):
        loss = torch.where(x[:, 0] == 1.0, x[:, 0], torch.nan)
        return loss, torch.ones_like(x)

    _, _, converged = minimize_stack(
        walled, torch.ones(1, 2, dtype=torch.float64), max_iter=9, tol=1e-6
    )
    assert not converged.any()

    def kink(x):
        return x.abs().sum(1), torch.sign(x + 1e-300)

    _, n_iter, converged = minimize_stack(
        kink, torch.zeros(1, 1, dtype=torch.float64), max_iter=9, tol=1e-6
    )
    assert converged.all() and n_iter == 1


def test_room_for_all_pairs_at_once_changes_no_step():
    rng = np.random.default_rng(0)
    curvatures = torch.tensor(10.0 ** rng.uniform(-1, 1, (3, 20)))
    goal = torch.tensor(rng.normal(size=(3, 20)))

    def bowl(x):
        gap = x - goal
        loss = 0.5 * (curvatures * gap**2).sum(1) + 0.1 * (gap**4).sum(1)
        return loss, curvatures * gap + 0.4 * gap**3

    start = torch.zeros(3, 20, dtype=torch.float64)
    found = [
        minimize_stack(bowl, start, max_iter=200, tol=1e-6, memory=5, trail=trail)
        for trail in (None, [])  # pairs that are handed on are tensors of their own
    ]
    assert found[0][1] == found[1][1] > 10 and found[0][2].all()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][0], goal, atol=1e-5)
