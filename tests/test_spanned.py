"""Folded, chunked and spanned problems against the plain one on a matrix in memory."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    InputError,
    _ranges,
    _row_blocks,
    _similarities,
    explain,
    load,
    save,
)
from skmoecbm import _expert_data as expert_data
from skmoecbm._association import AssociationProblem
from skmoecbm._heads import Target, expert_problem
from skmoecbm._newton import hessians
from skmoecbm._priors import prior_direction
from skmoecbm._similarities import FoldedSimilarities, Similarities, folding_pays
from skmoecbm._spanned import SpannedProblem, untouched_zeros
from skmoecbm._target import OneHot
from tests.brute_force import association_gradient, make_blocks, standardised

CPU = torch.device("cpu")


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _draw(n=160, m=90, d=12, n_classes=4, rank=None, seed=0):
    """Return X, T, y: T of ill-conditioned columns, or of a rank below d."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) + 2 + rng.normal(size=(n_classes, d))[y]
    T = rng.normal(size=(m, d)) * 10.0 ** -np.linspace(0, 3, d)
    if rank is not None:
        T = T[:, :rank] @ rng.normal(size=(rank, d))
    return _unit(X), _unit(T), y


def _weights(n, n_folds, seed=1):
    weights = np.random.default_rng(seed).uniform(0.5, 2, (n_folds, n))
    return weights * (np.arange(n) % n_folds != np.c_[:n_folds]) if n_folds > 1 else weights


def _problems(X, T, targets, weights, prior, **settings):
    targets, weights = torch.as_tensor(targets), torch.as_tensor(weights)
    prior = None if prior is None else torch.as_tensor(prior)
    plain = AssociationProblem(Similarities(X @ T.T, CPU), targets, weights, prior, **settings)
    folded = FoldedSimilarities(X, T, CPU)
    return plain, SpannedProblem(folded, targets, weights, prior, **settings)


@pytest.mark.parametrize("rank", [None, 5], ids=["full rank", "rank 5 of 12"])
@pytest.mark.parametrize(("n_classes", "n_folds"), [(4, 1), (4, 3), (2, 1), (2, 3)])
def test_the_span_of_the_concepts_holds_the_solution(n_classes, n_folds, rank):
    X, T, y = _draw(n_classes=n_classes, rank=rank)
    n_outputs = 1 if n_classes == 2 else n_classes
    targets = np.eye(n_classes)[y][:, -n_outputs:]
    prior = np.random.default_rng(2).normal(size=(n_outputs, len(T)))
    weights = _weights(len(X), n_folds)
    plain, spanned = _problems(X, T, targets, weights, prior)
    assert spanned.shape[2] == (rank or 12) < plain.shape[2]
    for alpha in (10.0, 0.01):
        a, b, _, done = plain.solve(alpha, tol=1e-11, max_iter=4000)
        c, own, _, own_done = spanned.solve(alpha, tol=1e-11, max_iter=4000)
        assert bool(done.all()) and bool(own_done.all())
        np.testing.assert_allclose(spanned.logits(c, own), plain.logits(a, b), atol=1e-7)
        np.testing.assert_allclose(
            spanned.loss_and_gradient(c, own, alpha)[0],
            plain.loss_and_gradient(a, b, alpha)[0],
            rtol=1e-12,
        )
        if n_folds == 1:
            for mine, theirs in zip(spanned.by_concept(c), plain.by_concept(a), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-7)


def test_the_solution_in_the_span_is_an_optimum_of_the_whole_problem():
    """Its gradient by A, of the formula written out in numpy, is zero in all m directions."""
    X, T, y = _draw()
    weights = _weights(len(X), 1)
    prior = np.random.default_rng(2).normal(size=(4, len(T)))
    _, spanned = _problems(X, T, np.eye(4)[y], weights, prior)
    c, b, _, _ = spanned.solve(0.3, tol=1e-12, max_iter=4000)
    _, _, A, A0 = spanned.by_concept(c)
    Z = standardised(X @ T.T, weights[0])[0]
    slope, slope_b, _ = association_gradient(Z, y, A, b[0].numpy(), A0, 0.3, weights[0])
    assert np.abs(slope).max() < 1e-9 and np.abs(slope_b).max() < 1e-9
    away = association_gradient(Z, y, A + 1e-3, b[0].numpy(), A0, 0.3, weights[0])[0]
    assert np.abs(away).max() > 1e-7, "a gradient that sees nothing would prove nothing"


def test_several_labels_per_row_are_spanned_too():
    X, T, _ = _draw()
    rng = np.random.default_rng(3)
    targets, cells = (rng.random((len(X), 3)) < 0.4).astype(float), rng.uniform(0.5, 2, (len(X), 3))
    settings = {"cells": torch.as_tensor(cells), "base_rate": torch.full((3,), 0.4).double()}
    plain, spanned = _problems(X, T, targets, _weights(len(X), 1), None, **settings)
    a, *_ = plain.solve(1.0, tol=1e-11, max_iter=4000)
    c, *_ = spanned.solve(1.0, tol=1e-11, max_iter=4000)
    np.testing.assert_allclose(spanned.by_concept(c)[2], plain.by_concept(a)[2], atol=1e-8)


def test_a_start_is_where_it_was_in_another_problem():
    X, T, y = _draw()
    prior = np.random.default_rng(2).normal(size=(4, len(T)))
    _, one = _problems(X, T, np.eye(4)[y], _weights(len(X), 1), prior)
    _, other = _problems(X, T, np.eye(4)[y], _weights(len(X), 3), prior)
    a, b, *_ = one.solve(1.0)
    c, own = other.start_from(*one.shared(a, b))
    difference = other.logits(c, own) - one.logits(a, b)
    assert float((difference - difference.mean(0)).abs().max()) < 1e-9  # but for the fold's mean


@pytest.mark.parametrize("kind", ["dense", "folded", "spanned"])
def test_blocks_of_rows_add_up_to_the_whole(kind, monkeypatch):
    X, T, y = _draw(n=701)
    targets, weights = torch.as_tensor(np.eye(4)[y]), torch.as_tensor(_weights(len(X), 3))
    prior = np.random.default_rng(2).normal(size=(4, len(T)))
    results = []
    for small in (False, True):
        if small:
            monkeypatch.setattr(_row_blocks, "_BLOCK_NUMBERS", 1)
            monkeypatch.setattr(_row_blocks, "_LEAST_ROWS", 64)
            monkeypatch.setattr(_row_blocks, "HELD_NUMBERS", 0)
            monkeypatch.setattr("skmoecbm._similarities.HELD_NUMBERS", 0)
        if kind == "dense":
            similarities, make = Similarities(X @ T.T, CPU), AssociationProblem
        else:
            similarities = FoldedSimilarities(X, T, CPU)
            make = AssociationProblem if kind == "folded" else SpannedProblem
        problem = make(similarities, targets, weights, torch.as_tensor(prior))
        assert sum(1 for _ in problem.similarities.blocks()) == (11 if small else 1)
        rng = np.random.default_rng(0)
        a, b = (torch.as_tensor(rng.normal(size=s)) for s in (problem.shape, problem.shape[:2]))
        if kind == "spanned":  # coordinates are free in their signs, slopes are not
            a, b = problem.start_from(torch.as_tensor(rng.normal(size=(4, 12))), b[0])
        held_out = np.arange(len(X)) % 3
        loss, slope, by_intercept = problem.loss_and_gradient(a, b, 0.7)
        found = [loss, by_intercept, problem.logits(a, b), problem.lacking().double()]
        found += [problem.held_out_logits(a, b, held_out)]
        if kind == "spanned":
            basis = problem._basis
            found += [slope @ basis, problem.prior @ basis]
        else:
            found += [slope, problem.prior, hessians(problem, a, b, 1.0)]
            curvature = problem._curvature_at(a, b, own=True)
            found += [curvature.coordinates(torch.tensor(0.1).double())[0](a)]
        results.append(found)
    for whole, blocks in zip(*results, strict=True):
        np.testing.assert_allclose(blocks, whole, rtol=1e-9, atol=1e-10)
    whole = problem.logits(a, b)
    own = whole[torch.arange(len(X)), torch.as_tensor(held_out)]
    np.testing.assert_allclose(problem.held_out_logits(a, b, held_out), own, atol=1e-12)


def test_one_hot_rows_are_made_where_they_are_needed():
    codes = np.random.default_rng(0).integers(0, 5, 50)
    lazy = OneHot(torch.as_tensor(codes), 5)
    assert lazy.shape == (50, 5) and len(lazy) == 50
    np.testing.assert_array_equal(lazy[10:20], np.eye(5)[codes[10:20]])
    weights = np.random.default_rng(1).uniform(0, 2, 50)
    rate = Target(codes, 5, weights, CPU).base_rate
    np.testing.assert_allclose(rate, np.bincount(codes, weights) / weights.sum())


@pytest.mark.parametrize(
    ("n", "m", "d", "folded"),
    [
        (8000, 350, 512, False),  # HAM10000 with 50 concepts a class
        (50_000, 10_000, 512, True),
        (8000, 512, 512, False),
        (8000, 700, 512, True),
        (100, 10_000, 512, False),  # fewer rows than dimensions: D is the smaller
        (1_300_000, 350, 512, True),  # D would take 3.6 GB
    ],
)
def test_folding_is_chosen_as_documented(n, m, d, folded):
    assert folding_pays(n, m, d) == folded
    if 8 * n * m <= 2**31:
        assert folded == (n * m > n * d + d * m)


@pytest.mark.parametrize("settings", [{}, {"l1": 0.1}, {"activation": "nonnegative"}])
def test_the_kind_of_problem_follows_from_the_block_and_the_head(settings):
    features, y = make_blocks(n=60, sizes=(40,), width=8)
    block, head = features.blocks[0], ConceptBottleneckClassifier(**settings)
    expert = expert_data.ExpertData("a", None, block.present, block)
    target, masks = Target(y, 3, np.ones(60), CPU), np.ones((1, 60), dtype=bool)
    problem = expert_problem(expert, target, head, None, masks)
    assert isinstance(problem, SpannedProblem) == (not settings)
    few = expert_problem(expert, target, head, None, masks, np.arange(7))
    assert type(few) is type(problem), "the fit on a few rows starts the others"
    assert expert._values is None, "no similarity was computed"


# ---- memory ----------------------------------------------------------------------------------


def test_a_memory_map_of_unit_rows_is_taken_as_it_is(tmp_path):
    X, T, _ = _draw(n=50)
    X = X.astype(np.float32)
    X[3] = np.nan
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="r").reshape(X.shape)
    names = [f"c{j}" for j in range(len(T))]
    features = ExpertFeatures.from_embeddings({"a": (mapped, T, names)})
    block = features.blocks[0]
    assert isinstance(block.embeddings, np.memmap) and np.shares_memory(block.embeddings, mapped)
    assert not block.present[3] and block.present.sum() == 49
    copied = ExpertFeatures.from_embeddings({"a": (np.array(mapped), T, names)})
    np.testing.assert_allclose(np.asarray(features), np.asarray(copied), atol=1e-6)

    (2 * X).tofile(tmp_path / "longer")
    longer = np.memmap(tmp_path / "longer", dtype=np.float32, mode="r").reshape(X.shape)
    features = ExpertFeatures.from_embeddings({"a": (longer, T, names)})
    assert not np.shares_memory(features.blocks[0].embeddings, longer)
    np.testing.assert_allclose(np.asarray(features), np.asarray(copied), atol=1e-6)

    X[7, 2] = np.nan
    X.tofile(tmp_path / "gap")
    gap = np.memmap(tmp_path / "gap", dtype=np.float32, mode="r").reshape(X.shape)
    with pytest.raises(InputError, match=r"partly NaN \(rows 7\)"):
        ExpertFeatures.from_embeddings({"a": (gap, T, names)})


def test_rows_far_into_an_array_are_named_in_errors():
    X, T = np.ones((9000, 3)), np.eye(3)
    for row, value, message in (
        (8999, np.inf, "row 8999 of the image embeddings has an infinite value"),
        (5000, 0.0, "image embedding 5000 is all zeros"),
    ):
        bad = X.copy()
        bad[row] = value
        with pytest.raises(InputError, match=message):
            ExpertFeatures.from_embeddings({"a": (bad, T, ["x", "y", "z"])})


def test_many_similarities_are_predicted_from_and_counted_in_tiles(monkeypatch):
    features, y = make_blocks(n=90, sizes=(40,), width=8, classes=True)
    whole = ConceptBottleneckClassifier(alpha=1.0).fit(features, y)
    monkeypatch.setattr(expert_data, "KEPT_NUMBERS", 100)
    monkeypatch.setattr(expert_data, "_TILE_ROWS", 16)
    monkeypatch.setattr(expert_data, "_TILE_NUMBERS", 16 * 7)
    tiled = ConceptBottleneckClassifier(alpha=1.0).fit(features, y)
    np.testing.assert_array_equal(tiled.concept_quantiles_, whole.concept_quantiles_)
    np.testing.assert_allclose(
        tiled.decision_function(features), whole.decision_function(features), atol=1e-10
    )
    monkeypatch.setattr(_ranges, "_LEAST_ROWS", 30)
    monkeypatch.setattr(_ranges, "_MOST_VALUES", 100)
    sampled = ConceptBottleneckClassifier(alpha=1.0).fit(features, y).concept_quantiles_
    kept = np.asarray(features)[np.linspace(0, 89, 30).round().astype(int)]
    np.testing.assert_array_equal(sampled[:, 0], kept.min(axis=0))
    np.testing.assert_array_equal(sampled[:, -1], kept.max(axis=0))


_FIT = """
    import resource, sys
    import numpy as np
    from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    n, m, d = 120_000, 6000, 64
    rng = np.random.default_rng(0)
    X = np.memmap(sys.argv[1], dtype=np.float32, mode="r").reshape(n, d)
    T, y = rng.standard_normal((m, d)).astype(np.float32), np.load(sys.argv[2])
    names = [f"c{j}" for j in range(m)]
    ConceptBottleneckClassifier(alpha=1.0).fit(np.eye(8), np.arange(8) % 2)
    before = peak()
    features = ExpertFeatures.from_embeddings({"a": (X, T, names)})
    model = ConceptBottleneckClassifier(alpha=1.0, max_iter=3).fit(features, y)
    assert isinstance(features.blocks[0].embeddings, np.memmap)
    model.predict(features[:1000])
    print(peak() - before)
"""


def test_a_fit_from_a_memory_map_never_holds_the_similarities(tmp_path):
    """They would take 2.9 GB as float32; X takes 31 MB."""
    rng = np.random.default_rng(0)
    X = _unit(rng.standard_normal((120_000, 64))).astype(np.float32)
    X.tofile(tmp_path / "X")
    np.save(tmp_path / "y.npy", rng.integers(0, 3, len(X)))
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_FIT)]
    command += [str(tmp_path / "X"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500e6


@pytest.mark.parametrize("absent", [False, True])
def test_a_mixture_of_many_similarities_is_the_same_mixture(absent, monkeypatch):
    features, y = make_blocks(n=150, sizes=(40, 30), width=8, noise=2.0)
    if absent:
        block = features.blocks[0]
        images = np.array(block.embeddings)
        images[::5] = np.nan
        experts = {"a": (images, block.texts, block.concepts)}
        other = features.blocks[1]
        experts["b"] = (other.embeddings, other.texts, other.concepts)
        features = ExpertFeatures.from_embeddings(experts)
    head = ConceptBottleneckClassifier(alpha=1.0)
    model = GatedConceptBottleneckClassifier(head, guard=False, specialize=False, cv=3)
    whole = clone(model).fit(features, y)
    monkeypatch.setattr(expert_data, "KEPT_NUMBERS", 100)
    monkeypatch.setattr(expert_data, "_TILE_ROWS", 16)
    monkeypatch.setattr(expert_data, "_TILE_NUMBERS", 16 * 7)
    tiled = clone(model).fit(features, y)
    for name in ("mean", "scale", "components"):
        mine, theirs = (m.gate_input_state_[name] for m in (tiled, whole))
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        tiled.gate_weights(features), whole.gate_weights(features), atol=1e-4
    )
    np.testing.assert_allclose(
        tiled.predict_proba(features), whole.predict_proba(features), atol=1e-4
    )
    np.testing.assert_allclose(
        whole.decision_function(features[:3]), whole.decision_function(features)[:3], atol=1e-10
    )
    explanation = explain(tiled, features[:4])
    total = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(total, tiled.decision_function(features[:4]), atol=1e-10)


def test_very_many_coefficients_are_kept_as_float32(monkeypatch, tmp_path):
    features, y = make_blocks(n=90, sizes=(40,), width=8, classes=True)
    whole = ConceptBottleneckClassifier(alpha=1.0, prior="class").fit(features, y)
    assert whole.association_.dtype == np.float64 and whole.prior_association_.any()
    monkeypatch.setattr("skmoecbm._spanned._WIDE_NUMBERS", 10)
    model = ConceptBottleneckClassifier(alpha=1.0, prior="class").fit(features, y)
    for name in ("association_", "prior_association_"):
        assert getattr(model, name).dtype == np.float32
        np.testing.assert_allclose(getattr(model, name), getattr(whole, name), rtol=1e-6, atol=1e-9)
    assert (model.prior_association_ == 0).tolist() == (whole.prior_association_ == 0).tolist()
    logits = model.decision_function(features)
    np.testing.assert_allclose(logits, whole.decision_function(features), atol=1e-5)
    explanation = explain(model, features[:4])
    total = sum(part.sum(axis=1) for part in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(total, logits[:4], atol=1e-10)
    loaded = load(save(model, tmp_path / "model") or tmp_path / "model")
    np.testing.assert_allclose(loaded.decision_function(features), logits, atol=1e-10)


@pytest.mark.parametrize("n", [400, 2300])  # above 2,000 rows alpha is chosen on some of them
def test_absent_rows_are_the_same_rows_where_the_fit_is_on_a_part_of_them(n):
    X, T, y = _draw(n=n, m=40, d=8, n_classes=3)
    names = [f"c{j}" for j in range(len(T))]
    other = np.random.default_rng(3).normal(size=(n, 5)).astype(np.float32)
    gone = np.random.default_rng(2).random(n) < 0.4
    X = X.astype(np.float32)
    X[gone] = np.nan
    weight = np.where(np.arange(n) % 10 == 9, 0.0, 1.0)
    folded = {"clip": (X, T.astype(np.float32), names)}
    plain = {"clip": ((X.astype(float) @ T.astype(np.float32).T).astype(np.float32), names)}
    table = {"table": (other, [f"t{j}" for j in range(5)])}
    for missing_all in (True, False):
        fits = []
        for experts in (folded, plain):
            make = (
                ExpertFeatures.from_embeddings
                if experts is folded
                else ExpertFeatures.from_similarities
            )
            features = make(experts)
            clf = ConceptBottleneckClassifier(prior=None)
            if not missing_all:
                features = ExpertFeatures(
                    [*features.blocks, *ExpertFeatures.from_similarities(table).blocks]
                )
                clf = GatedConceptBottleneckClassifier(clf, random_state=0)
            fits.append(clf.fit(features, y, sample_weight=weight))
        np.testing.assert_allclose(fits[0].alpha_, fits[1].alpha_, rtol=1e-3)


def test_experts_of_unlike_widths_share_their_blocks_of_rows(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    experts = {}
    for name, d in (("wide", 96), ("narrow", 8)):
        X = rng.normal(size=(600, d))
        X[:, 0] += y
        texts = rng.normal(size=(12, d))
        experts[name] = (_unit(X), _unit(texts), [f"{name} {j}" for j in range(12)])
    features = ExpertFeatures.from_embeddings(experts)
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=30.0), guard=False, specialize=False, cv=2
    )
    whole = clone(model).fit(features, y)
    monkeypatch.setattr(expert_data, "KEPT_NUMBERS", 10)
    monkeypatch.setattr(_similarities, "_LARGEST_DENSE", 10)
    monkeypatch.setattr(_row_blocks, "_BLOCK_NUMBERS", 4096)
    monkeypatch.setattr(_row_blocks, "_LEAST_ROWS", 16)
    tiled = clone(model).fit(features, y)
    # An axis may point either way.
    mine, theirs = (np.abs(m.gate_input_state_["components"]) for m in (tiled, whole))
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_zeros_take_memory_only_where_they_are_written():
    def private():
        status = open("/proc/self/status").read()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    before = private()
    zeros = untouched_zeros((1000, 50_000), np.float32)
    zeros[np.arange(1000), 50 * np.arange(1000)] = 1.0
    assert private() - before < zeros.nbytes / 10
    assert zeros.sum() == 1000 and zeros.dtype == np.float32 and zeros[3, 150] == 1
    again = pickle.loads(pickle.dumps(zeros[:2]))
    assert np.array_equal(again, zeros[:2])


def test_a_read_only_prior_in_the_order_of_the_classes_is_not_copied():
    X, T, y = _draw(n_classes=4)
    written = np.eye(4, dtype=bool)[np.arange(len(T)) % 4]
    keys = [str(c) for c in range(4)]
    experts = {"a": (X, T, [f"c{j}" for j in range(len(T))])}
    features = ExpertFeatures.from_embeddings(experts, incidence=written, class_keys=keys)
    direction, used = prior_direction(
        ConceptBottleneckClassifier(), "class", features.blocks[0], np.arange(4), len(T)
    )
    assert used == "class" and np.shares_memory(direction, features.blocks[0].incidence)
    other, _ = prior_direction(
        ConceptBottleneckClassifier(), "class", features.blocks[0], np.array([2, 0, 3, 1]), len(T)
    )
    assert np.array_equal(other, written[:, [2, 0, 3, 1]].T)
    for activation in ("linear", "softmax"):
        head = ConceptBottleneckClassifier(activation=activation, alpha=1.0, max_iter=300)
        head.fit(features, y)
        assert (head.prior_association_ != 0).sum() == len(T)


def test_memory_given_back_on_the_way_changes_nothing(monkeypatch):
    X, T, y = _draw()
    features = ExpertFeatures.from_embeddings({"a": (X, T, [f"c{j}" for j in range(len(T))])})
    head = ConceptBottleneckClassifier(alpha=0.1)
    first = clone(head).fit(features, y).association_
    given = []
    monkeypatch.setattr("skmoecbm._association._LARGE_STEP", 0)
    monkeypatch.setattr("skmoecbm._association.return_freed_memory", lambda: given.append(1))
    np.testing.assert_array_equal(clone(head).fit(features, y).association_, first)
    assert given
