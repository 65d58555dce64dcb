"""How networks are trained: which rows, which epoch, and what stays finite."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from skmoecbm import load, save
from skmoecbm.exceptions import InputError
from skmoecbm.moe import Balancing, MiniBatches, SparseMoEClassifier
from skmoecbm.moe._network import Routing
from skmoecbm.moe._penalties import balance, importance_cv2, jensen_shannon, switch_loss
from skmoecbm.moe._training import train

BLOCKS = {"a": slice(0, 3), "b": slice(3, 6)}


def rows(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    return X, (X[:, 0] + rng.normal(size=n) > 0).astype(int)


def small(**settings):
    settings = {"n_experts": 3, "expert_hidden": 4, "random_state": 0, **settings}
    return SparseMoEClassifier(**{"training": MiniBatches(max_epochs=3), **settings})


def routing(n=7, k=2, seed=0):
    """Return a routing of n rows to k of 4 experts, of which the first and the last are absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    probabilities = logits.softmax(1)
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    chosen.scatter_(1, logits.topk(k, dim=1).indices, True)
    present = torch.ones(n, dtype=torch.bool)
    present[[0, -1]] = False
    return Routing(logits, probabilities, probabilities * chosen * present[:, None], present)


@pytest.mark.parametrize("loss", ["switch", "importance"])
def test_the_balance_counts_rows_that_are_there_in_any_order(loss):
    one = routing()
    share = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
    told = balance([one], share, Balancing(loss=loss, weight=1.0, z_loss=0.5))
    kept = one.present
    alone = (
        switch_loss(one.probabilities[kept], one.weights[kept] > 0, share[kept])
        if loss == "switch"
        else importance_cv2(one.weights[kept], share[kept])
    )
    square = (share * one.logits.logsumexp(1) ** 2)[kept].sum() / share[kept].sum()
    assert torch.isclose(told, alone + 0.5 * square, rtol=1e-12)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    parts = (one.logits, one.probabilities, one.weights, one.present)
    mixed = Routing(*(part[order] for part in parts))
    again = balance([mixed], share[order], Balancing(loss=loss, weight=1.0, z_loss=0.5))
    assert torch.isclose(again, told, rtol=1e-12)


def test_an_expert_that_nobody_meets_has_a_finite_slope():
    means = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    jensen_shannon(means).backward()
    assert torch.isfinite(means.grad).all()


def test_a_splitter_says_who_trains():
    X, y = rows()
    seen = {}

    class Watched(SparseMoEClassifier):
        def _learn_scales(self, data, weights):
            seen["rows"] = np.flatnonzero(weights)
            super()._learn_scales(data, weights)

    splitter = TimeSeriesSplit(3)
    clf = Watched(n_experts=2, training=MiniBatches(max_epochs=2, validation_fraction=splitter))
    clf.fit(X, y)
    train, _ = next(splitter.split(X))
    assert np.array_equal(seen["rows"], train)
    # and the scales of the columns are of these alone
    assert np.allclose(clf.modality_means_[0], X[train].mean(axis=0))
    assert np.allclose(clf.modality_scales_[0], X[train].std(axis=0))


def test_where_steps_only_harm_the_start_stays():
    X, y = rows(200)
    harmful = MiniBatches(learning_rate=0.5, warmup_epochs=0, max_epochs=3)
    clf = small(training=harmful).fit(X, y)
    start = small(training=MiniBatches(learning_rate=1e-12, max_epochs=1)).fit(X, y)
    assert clf.history_["best_epoch"] == 0
    assert np.allclose(clf.predict_proba(X), start.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("router", ["joint", "per_modality", "disjoint"])
def test_a_modality_may_be_there_in_held_out_rows_alone(router):
    X, y = rows()
    X[:45, 3:] = np.nan

    class Last:
        def split(self, X, y=None, groups=None):
            yield np.arange(45), np.arange(45, len(X))

    training = MiniBatches(max_epochs=2, validation_fraction=Last())
    clf = small(modalities=BLOCKS, router=router, training=training).fit(X, y)
    assert np.isfinite(clf.predict_proba(X)).all()


def test_a_score_that_is_no_number_is_told():
    X, y = rows()

    class OneClass:
        def split(self, X, y=None, groups=None):
            yield np.flatnonzero(np.arange(len(y)) >= 10), np.flatnonzero(y == 1)[:2]

    training = MiniBatches(max_epochs=2, validation_fraction=OneClass(), scoring="roc_auc")
    with pytest.warns(), pytest.raises(InputError, match="gives no number on the rows"):
        small(training=training).fit(X, y)


def test_numbers_of_numpy_may_be_searched_and_saved(tmp_path):
    X, y = rows()
    grid = {"n_experts": np.arange(2, 4), "expert_hidden": np.array([3])}
    found = GridSearchCV(small(top_k=1), grid, cv=2).fit(X, y).best_estimator_
    save(found, tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").predict_proba(X), found.predict_proba(X))


def test_the_balance_of_modalities_is_of_their_weighted_means_where_they_are():
    routings = [routing(seed=0), routing(seed=1)]
    routings[1].present[[2, 3]] = False
    share = torch.linspace(0.2, 3.0, 7, dtype=torch.float64)
    told = balance(routings, share, Balancing(loss=None, modality_entropy=0.7))
    means = []
    for one in routings:
        there = one.present.numpy()
        rows = one.probabilities.numpy()[there]
        means.append(np.average(rows, axis=0, weights=share.numpy()[there]))
    assert float(told) == pytest.approx(-0.7 * jensenshannon(*means) ** 2, rel=1e-12)
    # and of a modality that no row of the batch has there is no mean to compare
    routings[1].present[:] = False
    assert balance(routings, share, Balancing(loss=None, modality_entropy=0.7)) == 0


def test_the_learning_rate_rises_over_the_first_epochs():
    training = MiniBatches(learning_rate=0.8, warmup_epochs=4)
    rates = [training.rate(epoch) for epoch in (1, 2, 3, 4, 5, 99)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert MiniBatches(learning_rate=0.8, warmup_epochs=0).rate(1) == 0.8


class Slope(torch.nn.Module):
    """Two numbers whose loss is their sum: Adam moves each by its learning rate in each step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2)
        )


def trained(score=None, **settings):
    network = Slope()
    settings = MiniBatches(learning_rate=0.8, weight_decay=0.0, **settings)
    groups = [([network.first], 1.0), ([network.second], 0.25)]
    generator = torch.Generator().manual_seed(0)
    run = train(
        network, groups, 3, lambda _: network.first + network.second, score, settings, generator
    )
    return network, run


def test_steps_are_as_long_as_the_epoch_says_and_the_group():
    network, _ = trained(warmup_epochs=4, max_epochs=5)
    assert network.first.item() == pytest.approx(-(0.2 + 0.4 + 0.6 + 0.8 + 0.8), rel=1e-5)
    assert network.second.item() == pytest.approx(network.first.item() / 4, rel=1e-5)
    network, _ = trained(warmup_epochs=0, max_epochs=2)
    assert network.first.item() == pytest.approx(-1.6, rel=1e-5)


def test_patience_is_counted_from_the_best_epoch_and_not_before_the_warm_up_is_over():
    def run(scores, **settings):
        told = iter(scores)
        network, found = trained(lambda: next(told), max_epochs=20, **settings)
        return network, found.best_epoch, len(found.train_loss)

    worse = [0.0] * 21
    network, *epochs = run(worse, warmup_epochs=4, patience=3)
    assert epochs == [0, 7]
    assert network.first.item() == 0.0  # and it is where it began
    assert run(worse, warmup_epochs=0, patience=3)[1:] == (0, 3)
    late = [0.0] * 6 + [1.0] + [0.5] * 14
    assert run(late, warmup_epochs=4, patience=3)[1:] == (6, 9)


def test_a_named_score_counts_each_row_once_and_none_takes_the_weights():
    X, y = rows(80)
    weights = np.where(np.arange(80) % 2, 5.0, 0.2)
    held_out = np.arange(50, 80)

    class Last:
        def split(self, X, y=None, groups=None):
            yield np.arange(50), held_out

    found = {}
    for scoring in (None, "neg_log_loss"):
        training = MiniBatches(
            max_epochs=1, learning_rate=1e-12, validation_fraction=Last(), scoring=scoring
        )
        clf = small(training=training).fit(X, y, sample_weight=weights)
        loss = -np.log(clf.predict_proba(X[held_out])[np.arange(30), y[held_out]])
        found[scoring] = (clf.history_["validation_score"][0], loss)
    told, loss = found[None]
    assert told == pytest.approx(-np.average(loss, weights=weights[held_out]), rel=1e-6)
    told, loss = found["neg_log_loss"]
    assert told == pytest.approx(-loss.mean(), rel=1e-6)
