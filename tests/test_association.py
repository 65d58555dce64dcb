import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    _association,
)
from skmoecbm._association import ALPHA_GRID, AssociationProblem
from skmoecbm._similarities import FoldedSimilarities, Similarities
from tests.brute_force import (
    association_gradient,
    best_scale,
    losses,
    make_blocks,
    make_table,
    standardised,
    two_columns,
)

CPU = torch.device("cpu")


def _centred(logits):
    logits = two_columns(logits)
    return logits - logits.mean(axis=1, keepdims=True)


def _logistic(alpha):
    """Return scikit-learn's solver of mean CE + alpha / (2 n) ||A||^2: its C is 1 / alpha."""
    return LogisticRegression(C=1 / alpha, solver="newton-cholesky", tol=1e-12, max_iter=1000)


def _zero_shot(clf, X):
    """Return Z and A0 of the fitted classifier's own attributes."""
    return (np.asarray(X, dtype=float) - clf.mean_) / clf.scale_, clf.prior_association_


# ---- linear ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.03, 1.0, 40.0])
def test_linear_is_logistic_regression_on_standardised_columns(n_classes, alpha):
    X, y = make_table(n_classes=n_classes, sizes=(8,))
    weights = np.random.default_rng(1).uniform(0.2, 3, len(y))
    clf = ConceptBottleneckClassifier(alpha=alpha).fit(X, y, sample_weight=weights)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    reference = _logistic(alpha).fit(scaler.transform(X), y, sample_weight=weights)

    np.testing.assert_allclose(clf.mean_, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(clf.scale_, scaler.scale_, rtol=1e-10)
    np.testing.assert_allclose(clf.association_, reference.coef_, atol=1e-6)
    new = make_table(n_classes=n_classes, sizes=(8,), seed=5)[0]
    np.testing.assert_allclose(
        _centred(clf.decision_function(new)),
        _centred(reference.decision_function(scaler.transform(new))),
        atol=1e-6,
    )
    unscaled = _logistic(alpha / len(y)).fit(scaler.transform(X), y, sample_weight=weights)
    assert np.abs(clf.association_ - unscaled.coef_).max() > 0.05, "alpha is divided by n"


def test_many_correlated_concepts_reach_the_optimum_of_logistic_regression():
    """More coefficients than the Newton finish takes: L-BFGS alone has to get there."""
    rng = np.random.default_rng(0)
    n, m, n_classes = 260, 200, 3
    y = np.arange(n) % n_classes
    factors = rng.normal(size=(n, 12)) * np.array([30, 10, 5, *[1] * 9]) + np.eye(3, 12)[y] * 2
    X = factors @ rng.normal(size=(12, m)) + 0.3 * rng.normal(size=(n, m))
    assert n_classes * (m + 1) > 512
    Z = standardised(X)[0]
    for alpha in (0.1, 10.0):
        clf = ConceptBottleneckClassifier(alpha=alpha).fit(X, y)
        reference = _logistic(alpha).fit(Z, y)
        best = association_gradient(Z, y, reference.coef_, reference.intercept_, 0, alpha)[2]
        found = association_gradient(Z, y, clf.association_, clf.intercept_, 0, alpha)[2]
        assert found - best < 1e-6  # tol=1e-4 is for the search; the fit goes a hundredfold nearer
        tight = ConceptBottleneckClassifier(alpha=alpha, tol=1e-13, max_iter=2000).fit(X, y)
        np.testing.assert_allclose(
            _centred(tight.decision_function(X)),
            _centred(reference.decision_function(Z)),
            atol=1e-5,
        )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.1, 5.0])
def test_linear_with_a_prior_is_the_optimum_that_scipy_finds(n_classes, alpha):
    features, y = make_blocks(sizes=(6,), n_classes=n_classes, classes=True)
    weights = np.random.default_rng(2).uniform(0.5, 2, len(y))
    clf = ConceptBottleneckClassifier(alpha=alpha, prior_strength=1.7)
    clf.fit(features, y, sample_weight=weights)
    assert clf.prior_used_ == "class"
    D = np.asarray(features, dtype=float)
    Z, _, _ = standardised(D, weights)
    A0 = np.eye(n_classes)[np.arange(6) % n_classes].T
    A0 = A0[1:] - A0[:1] if n_classes == 2 else A0
    A0 = A0 / np.abs(A0).sum(axis=1, keepdims=True)
    S0 = Z @ A0.T
    A0 = A0 * 1.7 / np.sqrt((weights @ S0**2).sum() / weights.sum() / A0.shape[0])
    np.testing.assert_allclose(clf.prior_association_, A0, rtol=1e-5)

    def fun(flat):
        A, b = flat[: A0.size].reshape(A0.shape), flat[A0.size :]
        slope, slope_b, loss = association_gradient(Z, y, A, b, A0, alpha, weights)
        return loss, np.r_[slope.ravel(), slope_b]

    start = np.zeros(A0.size + len(A0))
    found = minimize(fun, start, jac=True, options={"gtol": 1e-10, "maxiter": 5000})
    A, b = found.x[: A0.size].reshape(A0.shape), found.x[A0.size :]
    np.testing.assert_allclose(clf.association_, A, atol=2e-5)
    np.testing.assert_allclose(_centred(clf.decision_function(D)), _centred(Z @ A.T + b), atol=5e-5)
    without = ConceptBottleneckClassifier(alpha=alpha, prior=None).fit(
        features, y, sample_weight=weights
    )
    assert without.prior_used_ is None
    assert np.abs(without.association_ - A).max() > 1e-2


def test_scaled_prior_has_the_strength_asked_for_and_unscaled_does_not():
    features, y = make_blocks(sizes=(30,), classes=True, noise=0.5)
    for strength in (0.5, 1.0, 3.0):
        clf = ConceptBottleneckClassifier(alpha=1.0, prior_strength=strength).fit(features, y)
        Z, A0 = _zero_shot(clf, features)
        assert (Z @ A0.T).std() == pytest.approx(strength, rel=1e-6)
        rows = np.abs(A0).sum(axis=1)
        np.testing.assert_allclose(rows, rows[0], rtol=1e-6)
    unscaled = np.eye(3)[np.arange(30) % 3].T
    assert (Z @ unscaled.T).std() > 5, "ones in A0 are no unit of logits"


def test_strong_pull_leaves_the_zero_shot_classifier_and_much_data_forgets_it():
    features, y = make_blocks(sizes=(9,), n=90, classes=True)
    strong = ConceptBottleneckClassifier(alpha=1e9).fit(features, y)
    np.testing.assert_allclose(strong.association_, strong.prior_association_, atol=1e-6)
    Z, A0 = _zero_shot(strong, features)
    assert (Z @ A0.T).argmax(axis=1).tolist() == strong.predict(features).tolist()
    weak = {
        prior: ConceptBottleneckClassifier(alpha=1.0, prior=prior).fit(
            features, y, sample_weight=np.full(len(y), 1e5)
        )
        for prior in ("class", None)
    }
    np.testing.assert_allclose(
        weak["class"].predict_proba(features), weak[None].predict_proba(features), atol=2e-3
    )


def test_prior_matches_labels_by_key_name_or_synonym_whatever_the_order():
    rng = np.random.default_rng(0)
    D, names = rng.normal(size=(40, 4)), list("pqrs")
    incidence = [[1, 0], [1, 0], [0, 1], [0, 1]]
    features = ExpertFeatures.from_similarities(
        {"x": (D, names)},
        incidence=incidence,
        class_keys=["nv", "mel"],
        class_synonyms={"Melanoma": "mel", "Naevus": "nv"},
    )
    y = np.where(D[:, 0] > 0, "NAEVUS", "melanoma")
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(features, y)
    assert clf.classes_.tolist() == ["NAEVUS", "melanoma"]
    assert np.sign(clf.prior_association_[0]).tolist() == [-1, -1, 1, 1]
    with pytest.raises(ValueError, match=r"\['nv', 'mel'\].*bcc") as error:
        clf.fit(features, np.where(D[:, 0] > 0, "nv", "bcc"))
    assert "prior=None" in str(error.value)


def test_labels_that_are_numbers_match_keys_however_they_are_stored():
    D, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    features = ExpertFeatures.from_similarities(
        {"x": (D, ["p", "q"])},
        incidence=np.eye(2),
        class_keys=["0", " Grade 1 "],
        class_synonyms={"1": " Grade 1 "},
    )
    expected = ConceptBottleneckClassifier(alpha=1.0).fit(features, y).prior_association_
    assert np.sign(expected[0]).tolist() == [-1, 1]
    for labels in (y.astype(float), np.array(["0", "grade 1"])[y]):
        clf = ConceptBottleneckClassifier(alpha=1.0).fit(features, labels)
        np.testing.assert_array_equal(clf.prior_association_, expected)


def test_prior_given_as_an_array_keeps_its_direction():
    X, y = make_table(sizes=(4,))
    direction = np.array([[2.0, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 4]])
    clf = ConceptBottleneckClassifier(prior=direction, alpha=1.0).fit(X, y)
    shares = direction / np.abs(direction).sum(axis=1, keepdims=True)
    ratio = clf.prior_association_[direction != 0] / shares[direction != 0]
    np.testing.assert_allclose(ratio, ratio[0])
    assert clf.prior_used_ == "array"


def test_prior_of_two_classes_does_not_count_the_concepts_of_each():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    # Two phrases tell the first class; forty of the second one say nothing.
    D = np.c_[2.0 * (y == 0)[:, None] + rng.normal(size=(400, 2)), rng.normal(size=(400, 40))]
    of_first = np.arange(42) < 2
    features = ExpertFeatures.from_similarities(
        {"x": (D, [f"concept {j}" for j in range(42)])},
        incidence=np.c_[of_first, ~of_first],
        class_keys=["mel", "nv"],
    )
    clf = ConceptBottleneckClassifier(alpha=1e8).fit(features, np.array(["mel", "nv"])[y])
    Z, A0 = _zero_shot(clf, features)
    direction = np.where(of_first, -1 / 2, 1 / 40)
    expected = direction / (standardised(D.astype(np.float32))[0] @ direction).std()
    np.testing.assert_allclose(A0[0], expected, rtol=1e-5)
    by_count = np.where(of_first, -1.0, 1.0)
    assert ((Z @ by_count > 0) == y).mean() < 0.7 < 0.9 < clf.score(features, clf.classes_[y])


@pytest.mark.parametrize("folded", [False, True])
def test_prior_on_concepts_that_never_varied_is_no_prior(folded):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    if folded:
        images = np.repeat(rng.normal(size=(1, 4)), 40, axis=0)
        part, make = (images, rng.normal(size=(30, 4))), ExpertFeatures.from_embeddings
    else:
        part, make = (np.full((40, 30), 0.1),), ExpertFeatures.from_similarities
    names = [f"concept {j}" for j in range(30)]
    incidence = np.eye(2)[np.arange(30) % 2]
    features = make({"x": (*part, names)}, incidence=incidence, class_keys=["0", "1"])
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(features, y)
    np.testing.assert_array_equal(clf.prior_association_, 0)
    # One informative concept beside a constant one: it alone carries the prior's strength.
    D = np.c_[np.full(40, 1 / 3), y + rng.normal(size=40)]
    clf = ConceptBottleneckClassifier(alpha=1.0, prior=np.eye(2)).fit(D, y)
    np.testing.assert_allclose(clf.prior_association_, [[0, 1]], rtol=1e-9, atol=0)


def test_two_labels_of_one_class_are_refused_where_a_prior_would_treat_them_alike():
    rng = np.random.default_rng(0)
    features = ExpertFeatures.from_similarities(
        {"x": (rng.normal(size=(30, 2)), ["p", "q"])},
        incidence=np.eye(2),
        class_keys=["mel", "nv"],
        class_synonyms={"melanoma": "mel"},
    )
    y = np.array(["mel", "melanoma", "nv"])[np.arange(30) % 3]
    with pytest.raises(ValueError, match=r"\['mel', 'melanoma'\] all mean the class 'mel'"):
        ConceptBottleneckClassifier(alpha=1.0).fit(features, y)
    assert ConceptBottleneckClassifier(alpha=1.0, prior=None).fit(features, y).classes_.size == 3


# ---- moments ---------------------------------------------------------------------------------


def test_floor_of_the_deviation_at_few_rows_fades_with_rows():
    rng = np.random.default_rng(0)
    for n in (8, 400):
        X = rng.normal(size=(n, 5))
        X[:, 2] *= 1e-3
        clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, np.arange(n) % 2)
        sd = X.std(axis=0)
        floor = np.sort(sd)[2] / (1 + n / 4)
        np.testing.assert_allclose(clf.scale_, np.maximum(sd, floor), rtol=1e-9)
        assert clf.scale_[2] > sd[2] if n == 8 else clf.scale_[2] == pytest.approx(floor)


def test_constant_concept_says_nothing():
    X, y = make_table(sizes=(5,))
    X[:, 1] = 0.123456789
    clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    assert clf.scale_[1] == 1
    assert np.abs(clf.association_[:, 1]).max() < 1e-8
    rest = ConceptBottleneckClassifier(alpha=1.0).fit(np.delete(X, 1, axis=1), y)
    np.testing.assert_allclose(
        clf.predict_proba(X), rest.predict_proba(np.delete(X, 1, axis=1)), atol=1e-8
    )


# ---- L1 and non-negative ---------------------------------------------------------------------


def test_nonnegative_meets_the_conditions_of_the_optimum():
    X, y = make_table(sizes=(9,), n_classes=3, noise=2.0)
    n, alpha, l1 = len(y), 0.7, 3.0
    clf = ConceptBottleneckClassifier(activation="nonnegative", alpha=alpha, l1=l1).fit(X, y)
    Z = standardised(X)[0]
    A = clf.association_
    slope, slope_b, _ = association_gradient(Z, y, A, clf.intercept_, 0, alpha)
    slope = slope + l1 / n
    assert A.min() == 0 and (A > 0).any()
    np.testing.assert_allclose(slope[A > 0], 0, atol=1e-5)
    assert slope[A == 0].min() > -1e-5
    np.testing.assert_allclose(slope_b, 0, atol=1e-5)
    signed = ConceptBottleneckClassifier(alpha=alpha).fit(X, y)
    assert signed.association_.min() < -0.1


@pytest.mark.parametrize("prior", [None, [[3.0, 0, 0, 1, 0], [0, 1, 0, 0, 1]]])
def test_nonnegative_of_two_classes_is_the_difference_of_two_nonnegative_rows(prior):
    X, y = make_table(sizes=(5,), n_classes=2, noise=2.0)
    n, alpha, l1, Y = len(y), 0.7, 1.5, np.eye(2)[y]
    Z = standardised(X)[0]
    A0 = np.zeros((2, 5))
    if prior is not None:
        A0 = np.array(prior) / np.abs(prior).sum(axis=1, keepdims=True)
        A0 /= (Z @ (A0[1] - A0[0])).std()

    def objective(flat):
        A, b = flat[:10].reshape(2, 5), flat[10:]
        S = Z @ A.T + b
        residual = (softmax(S, axis=1) - Y) / n
        value = losses(S, y).mean() + alpha / (2 * n) * ((A - A0) ** 2).sum() + l1 / n * A.sum()
        slope = residual.T @ Z + alpha / n * (A - A0) + l1 / n
        return value, np.r_[slope.ravel(), residual.sum(axis=0)]

    bounds = [(0, None)] * 10 + [(None, None)] * 2
    options = {"gtol": 1e-10, "ftol": 0, "maxiter": 5000, "maxfun": 10000}
    found = minimize(
        objective, np.zeros(12), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    A, b = found[:10].reshape(2, 5), found[10:]
    clf = ConceptBottleneckClassifier(activation="nonnegative", prior=prior, alpha=alpha, l1=l1)
    clf.fit(X, y)
    np.testing.assert_allclose(clf.association_[0], A[1] - A[0], atol=1e-4)
    assert clf.intercept_[0] == pytest.approx(b[1] - b[0], abs=1e-4)
    assert clf.association_.min() < -0.1 and clf.association_.max() > 0.1
    # Which class comes first in the alphabet is no matter.
    other = ConceptBottleneckClassifier(
        activation="nonnegative", prior=None if prior is None else prior[::-1], alpha=alpha, l1=l1
    ).fit(X, 1 - y)
    np.testing.assert_allclose(
        clf.predict_proba(X), other.predict_proba(X)[:, ::-1], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_l1_is_the_elastic_net_of_saga(n_classes):
    X, y = make_table(sizes=(7,), n_classes=n_classes, noise=2.0)
    alpha, l1, n = 0.5, 6.0, len(y)
    clf = ConceptBottleneckClassifier(alpha=alpha, l1=l1, tol=1e-6, max_iter=2000).fit(X, y)
    Z = standardised(X)[0]
    # saga: C sum CE + r ||w||_1 + (1 - r) / 2 ||w||^2
    reference = LogisticRegression(
        C=1 / (alpha + l1), l1_ratio=l1 / (alpha + l1), solver="saga", tol=1e-9, max_iter=20000
    ).fit(Z, y)
    np.testing.assert_allclose(clf.association_, reference.coef_, atol=2e-4)
    A = clf.association_
    slope, slope_b, _ = association_gradient(Z, y, A, clf.intercept_, 0, alpha)
    on = np.abs(A) > 1e-7
    assert on.any() and not on.all(), "L1 switches concepts off"
    np.testing.assert_allclose(slope[on], -l1 / n * np.sign(A[on]), atol=1e-5)
    assert np.abs(slope[~on]).max() < l1 / n + 1e-5
    np.testing.assert_allclose(slope_b, 0, atol=1e-5)


# ---- softmax ---------------------------------------------------------------------------------


def test_softmax_rows_are_a_convex_mix_so_l1_is_constant_and_no_concept_speaks_against():
    X, y = make_table(sizes=(6,))
    fits = [
        ConceptBottleneckClassifier(activation="softmax", alpha=1.0, l1=l1).fit(X, y)
        for l1 in (0.0, 50.0)
    ]
    A = fits[0].association_
    assert A.shape == (3, 6)
    assert (A > 0).all(), "every concept is in use, and none lowers a logit"
    np.testing.assert_allclose(np.abs(A).sum(axis=1), 100, rtol=1e-12)
    np.testing.assert_array_equal(A, fits[1].association_)
    np.testing.assert_array_equal(fits[0].intercept_, 0)
    np.testing.assert_array_equal(fits[0].mean_, 0)
    np.testing.assert_array_equal(fits[0].scale_, 1)
    np.testing.assert_allclose(fits[0].decision_function(X), X @ A.T, atol=1e-10)


def test_softmax_of_two_classes_is_the_difference_of_two_mixes():
    X, y = make_table(sizes=(6,), n_classes=2)
    clf = ConceptBottleneckClassifier(activation="softmax", alpha=1.0).fit(X, y)
    assert clf.association_.shape == (1, 6)
    assert clf.association_.sum() == pytest.approx(0, abs=1e-10)
    assert np.abs(clf.association_).sum() <= 200
    assert clf.score(X, y) > 0.8


def test_softmax_starts_at_the_prior_and_descends_from_it():
    features, y = make_blocks(sizes=(6,), classes=True)
    D = np.asarray(features, dtype=float)

    def fit(alpha):
        return ConceptBottleneckClassifier(
            activation="softmax", alpha=alpha, prior_strength=2.0, max_iter=1000
        ).fit(features, y)

    prior = 2.0 * np.eye(3)[np.arange(6) % 3].T
    start = np.exp(prior) / np.exp(prior).sum(axis=1, keepdims=True)
    clf = fit(1e9)
    held = clf.association_
    np.testing.assert_array_equal(clf.prior_association_, prior)
    assert clf.prior_used_ == "class"
    np.testing.assert_allclose(held, 100 * start, rtol=0.05)

    def objective(flat, alpha):
        A = flat.reshape(prior.shape)
        W = np.exp(A) / np.exp(A).sum(axis=1, keepdims=True)
        penalty = alpha / (2 * len(y)) * ((A - prior) ** 2).sum()
        return losses(100 * D @ W.T, y).mean() + penalty

    alpha = 2.0
    found = minimize(objective, prior.ravel(), args=(alpha,), options={"gtol": 1e-7})
    mine = np.log(fit(alpha).association_ / 100)
    # A is known up to a constant per row; the penalty settles it at the prior's row sum.
    mine += (prior - mine).mean(axis=1, keepdims=True)
    assert objective(mine.ravel(), alpha) == pytest.approx(found.fun, abs=1e-7)
    assert found.fun < objective(prior.ravel(), alpha) - 0.05


# ---- folded products (item 5) ----------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("stored", [np.float64, np.float32])
def test_folded_and_materialised_similarities_give_the_same_loss_and_gradient(n_classes, stored):
    rng = np.random.default_rng(0)
    n, m, d, n_folds, alpha = 50, 30, 8, 3, 0.7
    X = rng.normal(size=(n, d)) + 3
    X, T = X / np.linalg.norm(X, axis=1, keepdims=True), rng.normal(size=(m, d))
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    D = (X @ T.T).astype(stored)
    y = np.arange(n) % n_classes
    rows = 1 if n_classes == 2 else n_classes
    targets = np.eye(n_classes)[y][:, -rows:]
    weights = rng.uniform(0.5, 2, (n_folds, n)) * (np.arange(n) % n_folds != np.c_[:n_folds])
    A, b = rng.normal(size=(n_folds, rows, m)), rng.normal(size=(n_folds, rows))
    prior = rng.normal(size=(rows, m))
    results = []
    for similarities in (FoldedSimilarities(X, T, CPU), Similarities(D, CPU)):
        problem = AssociationProblem(
            similarities,
            torch.as_tensor(targets),
            torch.as_tensor(weights),
            prior=torch.as_tensor(prior),
        )
        parts = problem.loss_and_gradient(torch.as_tensor(A), torch.as_tensor(b), alpha)
        results.append([part.numpy() for part in parts])
    tolerance = 1e-10 if stored is np.float64 else 1e-6
    for folded, whole in zip(*results, strict=True):
        np.testing.assert_allclose(folded, whole, rtol=tolerance, atol=tolerance)
    for f in range(n_folds):
        Z = standardised(D.astype(float), weights[f])[0]
        A0 = prior / np.abs(prior).sum(axis=1, keepdims=True)
        S0 = weights[f] @ (Z @ A0.T) ** 2 / weights[f].sum()
        A0 = A0 / np.sqrt(S0.mean())
        slope, slope_b, loss = association_gradient(Z, y, A[f], b[f], A0, alpha, weights[f])
        np.testing.assert_allclose(results[0][0][f], loss, rtol=1e-6)
        np.testing.assert_allclose(results[0][1][f], slope, atol=1e-6)
        np.testing.assert_allclose(results[0][2][f], slope_b, atol=1e-6)


@pytest.mark.parametrize("sizes", [(40,), (150,)], ids=["newton", "l-bfgs"])
def test_fits_on_folded_features_agree_with_fits_on_the_array(sizes):
    features, y = make_blocks(n=100, sizes=sizes, width=8, n_classes=4)
    assert len(y) * sizes[0] > 8 * (len(y) + sizes[0]), "folding pays, so it is what happens"
    folded = ConceptBottleneckClassifier(alpha=1.0, tol=1e-12).fit(features, y)
    whole = ConceptBottleneckClassifier(alpha=1.0, tol=1e-12).fit(np.asarray(features), y)
    np.testing.assert_allclose(folded.mean_, whole.mean_, atol=1e-7)
    np.testing.assert_allclose(folded.scale_, whole.scale_, rtol=1e-5)
    np.testing.assert_allclose(folded.association_, whole.association_, atol=1e-4)
    np.testing.assert_allclose(
        folded.predict_proba(features), whole.predict_proba(np.asarray(features)), atol=1e-5
    )


# ---- the choice of alpha ---------------------------------------------------------------------


def _oof(X, y, alpha, splitter):
    logits = np.zeros((len(y), len(np.unique(y))))
    for train, test in splitter.split(X, y):
        scaler = StandardScaler().fit(X[train])
        model = _logistic(alpha).fit(scaler.transform(X[train]), y[train])
        logits[test] = _centred(model.decision_function(scaler.transform(X[test])))
    return logits


def _brute_force_losses(blocks, y, splitter):
    path = []
    for alpha in ALPHA_GRID:
        scaled = []
        for block in blocks:
            logits = _oof(block, y, alpha, splitter)
            scaled.append(logits * best_scale(logits, y))
        average = np.mean(scaled, axis=0)
        path.append(losses(average * best_scale(average, y), y).mean())
    return np.array(path)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_alpha_averages_its_logarithm_over_the_grid_by_out_of_fold_evidence(n_classes):
    X, y = make_table(n=90, sizes=(4, 5), n_classes=n_classes, noise=3.0)
    blocks = [X[:, :4], X[:, 4:]]
    path = _brute_force_losses(blocks, y, StratifiedKFold(3))
    evidence = np.exp(-len(y) * (path - path.min()))
    expected = np.exp(evidence @ np.log(ALPHA_GRID) / evidence.sum())
    clf = GatedConceptBottleneckClassifier(
        experts=[("a", slice(0, 4)), ("b", slice(4, 9))], cv=3, gate="uniform"
    ).fit(X, y)
    tried = clf.alpha_path_["alpha"]
    assert tried == list(ALPHA_GRID[: len(tried)])
    np.testing.assert_allclose(clf.alpha_path_["log_loss"], path[: len(tried)], atol=1e-2)
    assert evidence[len(tried) :].sum() < 1e-6 * evidence.sum(), "left out: nothing that weighs"
    assert np.log(clf.alpha_) == pytest.approx(np.log(expected), abs=0.3)  # the search is coarse
    # Plain best-of-CV is another number.
    assert abs(np.log(ALPHA_GRID[int(path.argmin())] / clf.alpha_)) > 0.02
    assert all(head.alpha_ == clf.alpha_ for head in clf.heads_)


def test_single_expert_chooses_alpha_from_its_path_by_the_same_rule():
    X, y = make_table(n=60, sizes=(5,), noise=2.0)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    clf = ConceptBottleneckClassifier(cv=3).fit(X, y, sample_weight=weights)
    path = np.array(clf.alpha_path_["log_loss"])
    p = np.exp(-weights.sum() * (path - path.min()))
    expected = np.exp(p @ np.log(clf.alpha_path_["alpha"]) / p.sum())
    assert clf.alpha_ == pytest.approx(expected, rel=1e-9)
    fixed = ConceptBottleneckClassifier(alpha=3.0).fit(X, y)
    assert fixed.alpha_ == 3.0 and fixed.alpha_path_ == {}


def test_no_fold_possible_takes_the_fallback_alpha():
    X, y = make_table(n=12, sizes=(3,))
    y = np.where(np.arange(12) == 5, 1, 0)
    clf = ConceptBottleneckClassifier().fit(X, y)
    assert clf.alpha_ == 10.0 and clf.alpha_path_ == {}


def test_groups_never_straddle_the_folds_that_choose_alpha():
    """Rows in near-identical pairs flatter small alphas unless the pairs stay together."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 30))
    y = np.repeat(rng.integers(0, 2, 40), 2)
    X = np.repeat(base, 2, axis=0) + 1e-3 * rng.normal(size=(80, 30))
    shuffled = rng.permutation(80)
    X, y, pair = X[shuffled], y[shuffled], np.repeat(np.arange(40), 2)[shuffled]
    leaky = ConceptBottleneckClassifier().fit(X, y)
    honest = ConceptBottleneckClassifier().fit(X, y, groups=pair)
    assert min(leaky.alpha_path_["log_loss"]) < 0.55
    assert min(honest.alpha_path_["log_loss"]) > 0.6
    assert honest.alpha_ > 3 * leaky.alpha_


def test_a_concept_constant_in_one_fold_says_nothing_there():
    rng = np.random.default_rng(0)
    for seed in range(20):
        D = 0.2 + 0.02 * np.random.default_rng(seed).normal(size=(90, 6))
        y = np.arange(90) % 3
        folds = [(np.r_[30:90], np.r_[0:30]), (np.r_[0:30, 60:90], np.r_[30:60])]
        D[30:90, 2] = 0.1 + 0.01 * rng.normal()  # constant where the first fold learns
        problem = AssociationProblem(
            Similarities(D, CPU),
            torch.nn.functional.one_hot(torch.as_tensor(y)).double(),
            torch.as_tensor(np.array([np.isin(np.arange(90), train) for train, _ in folds]) * 1.0),
            torch.ones(3, 6, dtype=torch.float64),
        )
        assert float(problem.scale[0, 2]) == 1.0
        assert (problem.prior[0, :, 2] == 0).all()
        assert float(problem.scale[1, 2]) < 0.1


def test_what_is_called_converged_is_near_the_optimum_also_where_classes_separate():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 300)
    D = 0.2 + 0.02 * (rng.normal(size=(300, 12)) @ rng.normal(size=(12, 150)) / 3)
    D += 0.02 * 3 * rng.normal(size=(5, 150))[y]
    for alpha in (1e-3, 0.3):
        clf = ConceptBottleneckClassifier(alpha=alpha, prior=None).fit(D, y)
        Z = (D - clf.mean_) / clf.scale_
        reference = _logistic(alpha).fit(Z, y)

        def objective(association, intercept, alpha=alpha, Z=Z):
            own = losses(Z @ association.T + intercept, y).mean()
            return own + alpha / (2 * len(y)) * np.square(association).sum()

        mine = objective(clf.association_, clf.intercept_)
        # tol=1e-4 promises that the loss is within 1e-6 of its least.
        assert mine - objective(reference.coef_, reference.intercept_) < 2e-6


def test_a_fit_that_was_cut_short_is_near_the_optimum_or_says_that_it_is_not():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 200)
    D = 0.2 + 0.02 * (rng.normal(size=(200, 8)) @ rng.normal(size=(8, 140)) / 3)
    D += 0.02 * rng.normal(size=(4, 140))[y] + 0.005 * rng.normal(size=D.shape)
    Z = StandardScaler().fit_transform(D)
    reference = _logistic(0.1).fit(Z, y)

    def objective(association, intercept):
        own = losses(Z @ association.T + intercept, y).mean()
        return own + 0.1 / (2 * len(y)) * np.square(association).sum()

    best, quiet = objective(reference.coef_, reference.intercept_), 0
    for max_iter in range(1, 40):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            clf = ConceptBottleneckClassifier(alpha=0.1, prior=None, max_iter=max_iter).fit(D, y)
        if not any(issubclass(one.category, ConvergenceWarning) for one in told):
            quiet += 1
            assert objective(clf.association_, clf.intercept_) - best < 1e-5, max_iter
    assert 0 < quiet < 39


def test_newtons_steps_count_as_converged_only_where_they_arrived(monkeypatch):
    X, y = make_table(n_classes=3, sizes=(4,))
    stopped = _association.polish

    def short(*args):
        association, intercept, steps, left = stopped(*args)
        return association, intercept, steps, left + 1e-3

    monkeypatch.setattr(_association, "polish", short)
    with pytest.warns(ConvergenceWarning):
        ConceptBottleneckClassifier(alpha=0.1, max_iter=1).fit(X, y)
