import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp, softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skmoecbm import (
    ConceptBottleneckClassifier,
    GatedConceptBottleneckClassifier,
    InputError,
    JointTraining,
    LinearGate,
    MLPGate,
    load,
    save,
)
from skmoecbm._heads import Target
from skmoecbm._joint_fit import split_rows
from skmoecbm._joint_gradient import coefficients, joint_gradients
from skmoecbm._joint_loss import JointModel, JointRows
from skmoecbm._labels import LabelMatrix
from tests.brute_force import entropy, make_blocks, make_table
from tests.test_callbacks import Recorder

EXPERTS = [("a", slice(0, 4)), ("b", slice(4, 9))]
QUICK = {"max_epochs": 15, "gate_warmup": 2}


class PublishedSign(JointTraining):
    """The famous wrong sign: entropy is added to the loss."""

    def _objective(self, terms):
        return super()._objective(terms) + 2.0 * self.gate_entropy * terms.gate_entropy


class AnyGateRate(JointTraining):
    def _check_gate_lr(self):
        pass


def _joint(gate="mlp", *, activation="linear", training=None, head=None, **settings):
    head = {"activation": activation, **(head or {})}
    settings = {"experts": EXPERTS, "random_state": 0, **settings}
    return GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(**head),
        gate,
        training=JointTraining(**QUICK) if training is None else training,
        **settings,
    )


def draw_rows(n_per_class, seed, n_classes=3, n_concepts=12):
    """Return X (n, 24) and y: each of two experts sees the class in half of the rows."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(2, n_classes, n_concepts))
    y = rng.permutation(np.repeat(np.arange(n_classes), n_per_class))
    seer = rng.integers(0, 2, len(y))
    blocks = []
    for e in range(2):
        values = rng.normal(size=(len(y), n_concepts)) + (seer == e)[:, None] * centres[e, y]
        values[:, -3:] += 1.5 * (2 * seer[:, None] - 1)
        blocks.append(0.25 + 0.02 * values)
    return np.concatenate(blocks, axis=1), y


TWELVE = [("a", slice(0, 12)), ("b", slice(12, 24))]

# ---- the loss --------------------------------------------------------------------------------


class Slow:
    """The joint loss in numpy, from MATHS sections 1 and 2, on one flat vector of numbers."""

    def __init__(self, *, activation, pool, n_classes, exclusive, gate, training, seed=0):
        rng = np.random.default_rng(seed)
        n, sizes, q, hidden = 7, (3, 4), 5, 3
        self.softmax, self.pool, self.gate = activation == "softmax", pool, gate
        self.exclusive, self.training, self.n_classes = exclusive, training, n_classes
        self.present = np.ones((n, 2), dtype=bool)
        self.present[0, 1] = self.present[3, 0] = False
        self.values = [rng.normal(size=(n, m)) * (0.02 if self.softmax else 1) for m in sizes]
        for e, values in enumerate(self.values):
            values[~self.present[:, e]] = 0
        self.inputs = rng.normal(size=(n, q))
        self.weights = rng.uniform(0.5, 2, n)
        self.pull, self.gate_pull, self.l1_rate = 0.3, 0.2, 0.05
        if exclusive:
            self.labels, self.cells = np.eye(n_classes)[rng.integers(0, n_classes, n)], None
        else:
            self.labels = rng.integers(0, 2, (n, n_classes)).astype(float)
            self.cells = rng.uniform(0.5, 1.5, (n, n_classes))
        rows = n_classes if self.softmax or n_classes > 2 or not exclusive else 1
        shapes = {f"A{e}": (rows, m) for e, m in enumerate(sizes)}
        shapes |= {} if self.softmax else {f"b{e}": (rows,) for e in range(2)}
        if gate == "mlp":
            shapes |= {"hidden_weight": (hidden, q), "hidden_bias": (hidden,)}
            shapes |= {"out_weight": (2, hidden), "out_bias": (2,)}
        else:
            shapes |= {"slope": (2, q), "bias": (2,)}
        self.numbers = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        self.priors = [rng.normal(size=(rows, m)) for m in sizes]

    def logits(self, numbers):
        out = []
        for e in range(2):
            A = numbers[f"A{e}"]
            if self.softmax:
                S = 100 * self.values[e] @ softmax(A, axis=1).T
                S = S[:, 1:] - S[:, :1] if self.n_classes == 2 else S
            else:
                S = self.values[e] @ A.T + numbers[f"b{e}"]
            S = np.c_[np.zeros(len(S)), S] if S.shape[1] == 1 else S
            out.append(S * self.present[:, [e]])
        return np.stack(out, axis=1)

    def gate_weights(self, numbers):
        x = self.inputs
        if self.gate == "mlp":
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = x @ numbers["hidden_weight"].T + numbers["hidden_bias"]
            h = np.maximum(x, 0.01 * x) @ numbers["out_weight"].T + numbers["out_bias"]
        else:
            h = x @ numbers["slope"].T + numbers["bias"]
        G = np.exp(h) * self.present
        return G / G.sum(1, keepdims=True)

    def mixed(self, numbers):
        G, S = self.gate_weights(numbers), self.logits(numbers)
        if self.pool == "prob":
            if self.exclusive:
                return np.log(np.einsum("ne,nek->nk", G, softmax(S, axis=2)))
            p = np.einsum("ne,nek->nk", G, expit(S))
            return np.log(p / (1 - p))
        M = np.einsum("ne,nek->nk", G, S)
        return M * self.present.sum(1, keepdims=True) if self.pool == "sum" else M

    def parts(self, numbers):
        M, G, n = self.mixed(numbers), self.gate_weights(numbers), len(self.weights)
        if self.exclusive:
            losses = logsumexp(M, axis=1) - (self.labels * M).sum(1)
        else:
            p = expit(M)
            cross = -self.labels * np.log(p) - (1 - self.labels) * np.log(1 - p)
            losses = (self.cells * cross).mean(1)
        mean = self.weights @ G / self.weights.sum()
        A = [numbers["A0"], numbers["A1"]]
        penalty = self.pull * sum(((a - p) ** 2).sum() for a, p in zip(A, self.priors, strict=True))
        if self.gate == "linear":
            slope, bias = numbers["slope"], numbers["bias"]
            penalty += self.gate_pull * ((slope**2).sum() + 0.1 * (bias**2).sum())
        return {
            "log_loss": self.weights @ losses / n,
            "diversity": self.weights @ ((M - M.mean(1, keepdims=True)) ** 2).mean(1) / n,
            "gate_entropy": self.weights @ entropy(G) / n,
            "balance": entropy(mean),
            "l1": 0.0 if self.softmax else self.l1_rate * sum(np.abs(a).sum() for a in A),
            "penalty": penalty,
        }

    def objective(self, numbers):
        parts, t = self.parts(numbers), self.training
        bonus = t.diversity * parts["diversity"] + t.gate_entropy * parts["gate_entropy"]
        bonus += t.balance * parts["balance"]
        return parts["log_loss"] + parts["penalty"] + t.l1 * parts["l1"] - bonus

    def fast(self):
        """Return the library's model and rows of the same numbers."""
        tensors = {name: torch.tensor(value) for name, value in self.numbers.items()}
        rows = JointRows(
            [torch.tensor(values) for values in self.values],
            torch.tensor(self.inputs),
            torch.tensor(self.present),
            torch.tensor(self.labels),
            None if self.cells is None else torch.tensor(self.cells),
            torch.tensor(self.weights),
        )
        model = JointModel(
            softmax=self.softmax,
            matrices=[tensors["A0"], tensors["A1"]],
            priors=[torch.tensor(prior) for prior in self.priors],
            intercepts=[] if self.softmax else [tensors["b0"], tensors["b1"]],
            kind=self.gate,
            layers={k: v for k, v in tensors.items() if k[0] not in "A" and k not in ("b0", "b1")},
            pool=self.pool,
            exclusive=self.exclusive,
            pull=self.pull,
            gate_pull=self.gate_pull if self.gate == "linear" else 0.0,
            l1_rate=self.l1_rate,
        )
        return model, rows, tensors


CASES = [
    (activation, pool, n_classes, exclusive, gate)
    for activation in ("linear", "softmax")
    for pool in ("logit", "prob", "sum")
    for n_classes, exclusive in ((3, True), (2, True), (3, False))
    for gate in ("mlp", "linear")
    if exclusive or activation == "linear"
]


@pytest.mark.parametrize(("activation", "pool", "n_classes", "exclusive", "gate"), CASES)
def test_whole_loss_and_gradient_are_those_of_finite_differences(
    activation, pool, n_classes, exclusive, gate
):
    training = JointTraining(diversity=0.3, l1=0.7, gate_entropy=0.4, balance=0.6)
    slow = Slow(
        activation=activation,
        pool=pool,
        n_classes=n_classes,
        exclusive=exclusive,
        gate=gate,
        training=training,
    )
    model, rows, tensors = slow.fast()
    terms = model.terms(rows)
    for name, value in slow.parts(slow.numbers).items():
        assert getattr(terms, name).item() == pytest.approx(value, abs=1e-12), name
    loss = training._objective(terms)
    assert loss.item() == pytest.approx(slow.objective(slow.numbers), abs=1e-12)
    loss.backward()
    if pool != "prob":  # written out there; autograd's of the other
        mine, gradients = joint_gradients(model, rows, coefficients(training))
        assert mine == pytest.approx(terms.log_loss.item(), abs=1e-14)
        for tensor, gradient in zip(model.tensors(), gradients, strict=True):
            np.testing.assert_allclose(gradient.detach(), tensor.grad, atol=1e-14, rtol=1e-10)
    trained = {id(tensor) for tensor in model.tensors()}
    for name, tensor in tensors.items():
        assert id(tensor) in trained, name
        for index in np.ndindex(tensor.shape):
            around = []
            for step in (1e-6, -1e-6):
                numbers = {k: v.copy() for k, v in slow.numbers.items()}
                numbers[name][index] += step
                around.append(slow.objective(numbers))
            expected = (around[0] - around[1]) / 2e-6
            assert float(tensor.grad[index]) == pytest.approx(expected, abs=2e-7), (name, index)


def _slow(**settings):
    plain = {"activation": "linear", "pool": "logit", "n_classes": 3, "exclusive": True}
    return Slow(**{**plain, "gate": "mlp", "training": JointTraining(), **settings})


def test_diversity_is_a_variance_over_classes_not_over_rows():
    slow = _slow()
    model, rows, tensors = slow.fast()
    M, share = slow.mixed(slow.numbers), slow.weights / len(slow.weights)
    mine = float(model.terms(rows).diversity)
    assert mine == pytest.approx(share @ M.var(axis=1))
    assert abs(mine - M.var(axis=0).mean()) > 0.1, "the famous wrong axis"
    # The same decided answer for every row is diverse, an indifferent one is not.
    for name in ("A0", "A1", "b0", "b1"):
        tensors[name].data.zero_()
    slow.present[:] = True
    rows.present[:] = True
    assert float(model.terms(rows).diversity) == pytest.approx(0.0, abs=1e-12)
    for name in ("b0", "b1"):
        tensors[name].data.copy_(torch.tensor([3.0, 0.0, 0.0]))
    assert float(model.terms(rows).diversity) == pytest.approx(slow.weights.mean() * 2.0)


def test_a_row_without_an_expert_tells_that_expert_nothing():
    slow = _slow()
    model, rows, tensors = slow.fast()
    alone = rows[torch.tensor([0])]  # has expert a only
    model.terms(alone).log_loss.backward()
    assert (tensors["A1"].grad == 0).all() and (tensors["b1"].grad == 0).all()
    assert tensors["A0"].grad.abs().sum() > 0
    assert (tensors["out_weight"].grad == 0).all(), "one expert: nothing to gate"
    G = torch.softmax(model.gate_logits(rows), dim=1)
    assert float(G[0, 1]) == 0 and float(G[3, 0]) == 0


def test_a_weight_of_two_is_the_row_twice():
    slow = _slow()
    model, rows, _ = slow.fast()
    rows.shares[:] = 1.0
    twice = rows[torch.tensor([0, 0, 1, 2])]
    once = rows[torch.tensor([0, 1, 2])]
    once.shares = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64) * 3 / 4
    for name in ("log_loss", "diversity", "gate_entropy", "balance"):
        first, second = getattr(model.terms(twice), name), getattr(model.terms(once), name)
        assert float(first) == pytest.approx(float(second), abs=1e-12)


# ---- the signs -------------------------------------------------------------------------------


def test_entropy_is_a_bonus_and_the_published_sign_a_penalty():
    X, y = draw_rows(60, 0)
    settings = {"validation_fraction": 0.0}  # all train for as long: epochs are no explanation
    found = {}
    for name, training in {
        "right": JointTraining(gate_entropy=1.0, **settings),
        "none": JointTraining(gate_entropy=0.0, **settings),
        "published": PublishedSign(gate_entropy=1.0, **settings),
    }.items():
        clf = _joint(experts=TWELVE, training=training).fit(X, y)
        found[name] = entropy(clf.gate_weights(X)).mean()
    assert found["right"] > found["none"] + 0.2
    assert found["published"] < found["none"] - 0.2
    assert found["right"] > 0.95 * np.log(2) and found["published"] < 0.1


def test_balance_keeps_the_mean_gate_even_and_lets_rows_decide():
    rng = np.random.default_rng(0)
    X, y = draw_rows(60, 0)
    X[:, :12] = 0.25 + 0.02 * rng.normal(size=(180, 12))  # expert a is noise
    shares = {}
    for balance in (0.0, 3.0):
        training = JointTraining(balance=balance, gate_entropy=0.0, validation_fraction=0.0)
        clf = _joint(experts=TWELVE, training=training).fit(X, y)
        shares[balance] = clf.gate_weights(X).mean(axis=0)
    assert shares[0.0][0] < 0.4
    np.testing.assert_allclose(shares[3.0], 0.5, atol=0.05)


def test_l1_shrinks_linear_associations_and_is_nothing_on_softmax_rows():
    X, y = make_table(n=90)
    for activation in ("linear", "softmax"):
        sums, proba = [], []
        for l1 in (0.0, 30.0):
            training = JointTraining(l1=l1, validation_fraction=0.0, **QUICK)
            clf = _joint(activation=activation, training=training).fit(X, y)
            sums.append(sum(np.abs(head.association_).sum() for head in clf.heads_))
            proba.append(clf.predict_proba(X))
        if activation == "linear":
            assert sums[1] < 0.7 * sums[0]
        else:
            np.testing.assert_array_equal(*proba)


# ---- early stopping --------------------------------------------------------------------------


def test_best_weights_are_restored():
    X, y = make_table(n=150, noise=4.0)
    training = JointTraining(association_lr=1.0, max_epochs=80, patience=25, gate_warmup=0)
    clf = _joint(training=training).fit(X, y)
    history = clf.training_history_
    losses, best = history["validation_loss"], history["best_epoch"]
    assert history["early_stopping"] is True
    assert best == np.argmin(losses) and 0 < best < len(losses) - 1
    assert losses[-1] > losses[best] + 0.1, "it did rise"
    assert len(losses) == best + 25 + 1, "and patience ended it"
    # Training that ends at the best epoch has the same weights; longer training has others.
    for max_epochs in (best, len(losses) - 1):
        short = clone(clf).set_params(training__max_epochs=max_epochs).fit(X, y)
        np.testing.assert_array_equal(short.predict_proba(X), clf.predict_proba(X))
    final = clone(clf).set_params(training__validation_fraction=0.0).fit(X, y)
    assert np.abs(final.predict_proba(X) - clf.predict_proba(X)).max() > 0.05


def test_start_is_kept_where_training_only_harms():
    X, _ = make_table(n=90)
    y = np.random.default_rng(0).permutation(np.arange(90) % 3)
    clf = _joint(training=JointTraining(association_lr=5.0, max_epochs=5)).fit(X, y)
    assert clf.training_history_["best_epoch"] == 0
    for head in clf.heads_:
        np.testing.assert_array_equal(head.association_, head.prior_association_)
    np.testing.assert_array_equal(clf.gate_weights(X), 0.5)


def test_too_few_rows_train_to_the_end_and_say_so():
    X, y = make_table(n=24)
    history = _joint().fit(X, y).training_history_
    assert history["early_stopping"] == "fewer than 16 rows could be held out"
    assert history["validation_loss"] == [] and history["best_epoch"] == 15


def _split(codes, present=None, groups=None, weights=None, fraction=0.2, seed=0):
    n, labels = len(codes), codes
    n_classes = codes.values.shape[1] if isinstance(codes, LabelMatrix) else codes.max() + 1
    weights = np.ones(n) if weights is None else weights
    present = np.ones((n, 2), dtype=bool) if present is None else present
    target = Target(labels, n_classes, weights, torch.device("cpu"))
    return split_rows(target, present, groups, fraction, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_stratified_keeps_groups_whole_and_loses_no_class(seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice(4, 400, p=[0.6, 0.3, 0.09, 0.01])
    codes[:4] = range(4)
    weights = (rng.random(400) > 0.1).astype(float)
    weights[:4] = 1
    train, held_out, reason = _split(codes, weights=weights, seed=seed)
    assert reason is None and not (train & held_out).any()
    np.testing.assert_array_equal(train | held_out, weights > 0)
    for c in range(3):
        count = (weights * (codes == c)).sum()
        assert abs((held_out & (codes == c)).sum() - 0.2 * count) <= 1
    assert set(codes[train]) == set(range(4))

    groups = rng.integers(0, 90, 400)
    train, held_out, reason = _split(codes, groups=groups, seed=seed)
    assert reason is None
    assert not set(groups[train]) & set(groups[held_out])
    assert 0.1 < held_out.mean() < 0.3 and set(codes[train]) == set(range(4))

    present = rng.random((400, 2)) > 0.3
    present[~present.any(axis=1), 0] = True
    present[:, 1] &= ~((codes == 3) & (np.arange(400) != np.flatnonzero(codes == 3)[0]))
    train, held_out, reason = _split(codes, present=present, seed=seed)
    assert reason is None
    for e in range(2):
        assert set(codes[train & present[:, e]]) == set(codes[present[:, e]])


def test_indicator_labels_split_by_group():
    values = np.random.default_rng(0).integers(0, 2, (120, 3)).astype(float)
    groups = np.arange(120) // 3
    labels = LabelMatrix(values, np.ones_like(values))
    train, held_out, reason = _split(labels, groups=groups)
    assert reason is None and held_out.sum() == 24
    assert not set(groups[train]) & set(groups[held_out])


# ---- weights ---------------------------------------------------------------------------------


def test_rows_of_weight_zero_change_nothing():
    X, y = make_table(n=120)
    weights = np.ones(120)
    weights[::4] = 0
    strange = X.copy()
    strange[::4] += 5
    first = _joint().fit(strange, y, sample_weight=weights)
    second = _joint().fit(X[weights > 0], y[weights > 0])
    np.testing.assert_allclose(first.predict_proba(X), second.predict_proba(X), atol=1e-8)


def test_class_weights_are_sample_weights():
    X, y = make_table(n=120, noise=3.0)
    weights = np.where(y == 0, 5.0, 1.0)
    first = _joint(class_weight={0: 5.0}).fit(X, y)
    second = _joint().fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(first.predict_proba(X), second.predict_proba(X), atol=1e-12)
    plain = _joint().fit(X, y)
    assert (first.predict(X) == 0).sum() > (plain.predict(X) == 0).sum() + 10


# ---- the fitted model ------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["uniform", "constant", "linear", "mlp"])
@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_missing_expert_equals_model_without_it_and_leaves_other_rows_alone(gate, activation):
    X, y = make_table(n=90)
    X[:20, :4] = np.nan
    X[20:30, 4:] = np.nan
    clf = _joint(gate, activation=activation).fit(X, y)
    assert clf.selected_ == "joint" and clf.gate_state_.kind == gate
    whole = make_table(n=90)[0]
    for name, columns in EXPERTS:
        masked = whole.copy()
        masked[:, columns] = np.nan
        view = clf.without(name)
        np.testing.assert_array_equal(clf.predict_proba(masked), view.predict_proba(whole))
        np.testing.assert_array_equal(clf.gate_weights(masked), view.gate_weights(whole))
    masked = whole.copy()
    masked[::2, :4] = np.nan
    np.testing.assert_allclose(
        clf.predict_proba(masked)[1::2], clf.predict_proba(whole)[1::2], atol=1e-12
    )
    G = clf.gate_weights(X)
    assert (G[:20, 0] == 0).all() and (G[20:30, 1] == 0).all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_decision_is_the_mix_of_the_heads_and_explanations_add_up(n_classes, activation):
    X, y = make_table(n=90, n_classes=n_classes)
    clf = _joint(activation=activation).fit(X, y)
    total = 0
    G = clf.gate_weights(X)
    for e, (_, columns) in enumerate(EXPERTS):
        head = clf.heads_[e]
        S = (X[:, columns] - head.mean_) / head.scale_ @ head.association_.T + head.intercept_
        total = total + G[:, [e]] * S
    values = clf.decision_function(X).reshape(90, -1)
    np.testing.assert_allclose(values, total, atol=1e-10)
    np.testing.assert_array_equal(clf.expert_scale_, 1)
    np.testing.assert_array_equal(clf.pool_scale_, 1)
    X = X.copy()
    X[:5, :4] = np.nan
    explanation = clf.explain(X)
    summed = sum(c.sum(axis=1) for c in explanation.contributions) + explanation.bias
    np.testing.assert_allclose(summed, clf.decision_function(X).reshape(90, -1), atol=1e-10)
    if activation == "softmax" and n_classes == 3:
        for head in clf.heads_:
            assert (head.association_ > 0).all() and (head.intercept_ == 0).all()
            np.testing.assert_allclose(head.association_.sum(axis=1), 100)


def test_training_starts_at_the_language_prior():
    X, y = make_blocks(classes=True)
    training = JointTraining(max_epochs=1, association_lr=1e-9, gate_lr=1e-9)
    clf = _joint(experts="auto", training=training).fit(X, y)
    assert clf.prior_used_ == {"a": "class", "b": "class"}
    for head in clf.heads_:
        assert np.abs(head.prior_association_).sum() > 0
        np.testing.assert_allclose(head.association_, head.prior_association_, atol=1e-7)
    assert clf.score(X, y) > 0.5, "zero-shot"


def test_one_expert_and_every_pool():
    X, y = make_table(n=90)
    one = _joint(experts=[("all", slice(0, 9))]).fit(X, y)
    assert one.gate_state_.kind == "uniform" and one.score(X, y) > 0.7
    for pool in ("prob", "sum"):
        clf = _joint(pool=pool, training=JointTraining()).fit(X, y)
        assert clf.score(X, y) > 0.7


def test_several_labels_per_row_learn_under_binary_cross_entropy():
    X, y = make_table(n=150)
    Y = np.c_[y == 0, y == 1, (y == 2) | (y == 0)].astype(int)
    labels = LabelMatrix(Y.astype(float), np.ones(Y.shape))
    target = Target(labels, 3, np.ones(150), "cpu")
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    rng = np.random.default_rng(seed)
    train, held_out, _ = split_rows(target, np.ones((150, 2), dtype=bool), None, 0.2, rng)
    clf = _joint(training=JointTraining()).fit(X, Y)
    assert clf.multilabel_ and clf.predict(X).shape == (150, 3)
    rate = Y.mean(axis=0)
    chance = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)).mean()
    p = clf.predict_proba(X)
    assert -np.log(np.where(Y == 1, p, 1 - p)).mean() < 0.6 * chance
    # It starts at the frequencies of the training part, judged on the part held out.
    first = np.where(Y[held_out] == 1, Y[train].mean(axis=0), 1 - Y[train].mean(axis=0))
    expected = -np.log(first).mean()
    assert clf.training_history_["validation_loss"][0] == pytest.approx(expected, abs=1e-9)


def test_random_state_alone_decides():
    X, y = make_table(n=90)
    before = torch.get_rng_state()
    training = JointTraining(dropout=0.3, **QUICK)
    first, second, other = (
        _joint(training=training, random_state=seed).fit(X, y).predict_proba(X)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4
    assert (torch.get_rng_state() == before).all(), "the program's own generator is left alone"
    clf = _joint(training=training, random_state=3).fit(X, y)
    np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X), first)


def test_gate_waits_for_the_experts():
    X, y = make_table(n=90)
    clf = _joint(training=JointTraining(max_epochs=6, gate_warmup=6)).fit(X, y)
    np.testing.assert_array_equal(clf.gate_weights(X), 0.5)
    assert np.abs(clf.heads_[0].association_).sum() > 0
    clf = _joint(training=JointTraining(max_epochs=6, gate_warmup=3)).fit(X, y)
    shares = np.array(clf.training_history_["mean_gate"])
    np.testing.assert_allclose(shares[:3], 0.5, atol=1e-12)
    assert (np.abs(shares[3:] - 0.5) > 1e-4).all()


def test_dropout_reaches_the_gate_alone_and_only_in_training():
    X, y = make_table(n=90)
    for gate, changes in (("mlp", True), ("linear", True), ("constant", False)):
        plain, dropped = (
            _joint(gate, training=JointTraining(dropout=p, validation_fraction=0.0, **QUICK))
            .fit(X, y)
            .predict_proba(X)
            for p in (0.0, 0.5)
        )
        assert bool(np.abs(plain - dropped).max() > 1e-4) == changes, gate
        assert changes or (plain == dropped).all()


def test_saved_model_predicts_the_same_and_keeps_its_training(tmp_path):
    X, y = make_table(n=90)
    clf = _joint(activation="softmax", training=JointTraining(diversity=0.01, **QUICK)).fit(X, y)
    save(clf, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), atol=1e-12)
    assert again.selected_ == "joint"
    assert again.training.get_params() == clf.training.get_params()


def test_staged_training_afterwards_leaves_nothing_of_the_joint_one():
    X, y = make_table(n=60)
    clf = _joint().fit(X, y)
    assert clf.oof_log_loss_ == {} and not hasattr(clf, "oof_logits_")
    clf.set_params(training="staged", gate="uniform").fit(X, y)
    assert not hasattr(clf, "training_history_") and hasattr(clf, "oof_logits_")
    clf.set_params(training=JointTraining(**QUICK)).fit(X, y)
    assert not hasattr(clf, "oof_logits_")


# ---- scikit-learn ----------------------------------------------------------------------------


def test_parameters_are_searched_by_name():
    X, y = make_table(n=90)
    grid = {"training__diversity": [0.0, 0.01], "training__dropout": [0.2]}
    search = GridSearchCV(_joint(), grid, cv=2).fit(X, y)
    assert search.best_estimator_.training.dropout == 0.2
    found = search.cv_results_["param_training__diversity"].tolist()
    assert found == [0.0, 0.01] and np.isfinite(search.cv_results_["mean_test_score"]).all()
    copy = clone(_joint(training=JointTraining(l1=0.5)))
    assert copy.get_params()["training__l1"] == 0.5
    with pytest.raises(InputError, match=r"training='staged'.*training=JointTraining\(\)"):
        GatedConceptBottleneckClassifier().set_params(training__diversity=1.0)


def test_an_epoch_is_a_task():
    X, y = make_table(n=90)
    recorder = Recorder()
    training = JointTraining(max_epochs=3)
    clf = _joint(training=training).set_callbacks(recorder).fit(X, y)
    assert [path[1:] for path in recorder.begun[1:]] == [(f"epoch {i}",) for i in (1, 2, 3)]
    assert sorted(recorder.ended) == sorted(recorder.begun)
    model, _, _ = recorder.models[recorder.begun[0]]
    np.testing.assert_array_equal(model.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": JointTraining(gate_lr=6e-3)}, r"at most 0.005: gates that learn faster"),
        ({"training": JointTraining(gate_lr=0)}, "'gate_lr'"),
        ({"training": JointTraining(gate_entropy=-0.02)}, "'gate_entropy'"),
        ({"training": JointTraining(diversity=-1)}, "'diversity'"),
        ({"training": JointTraining(l1=-1)}, "'l1'"),
        ({"training": JointTraining(balance=np.nan)}, "'balance'"),
        ({"training": JointTraining(dropout=1)}, "'dropout'.*below 1"),
        ({"training": JointTraining(validation_fraction=0.6)}, "'validation_fraction'"),
        ({"training": JointTraining(batch_size=0)}, "'batch_size'"),
        ({"training": JointTraining(max_epochs=1.5)}, "'max_epochs'"),
        ({"training": JointTraining(patience=0)}, "'patience'"),
        ({"training": JointTraining(gate_warmup=-1)}, "'gate_warmup'"),
        ({"training": JointTraining(association_lr=0)}, "'association_lr'"),
        ({"training": "joint"}, "'staged' or a JointTraining object.*'joint'"),
        ({"training": JointTraining}, "'staged' or a JointTraining object"),
        ({"activation": "nonnegative"}, "head__activation='nonnegative'"),
        ({"head": {"l1": 1.0}}, "set training__l1"),
        ({"gate": MLPGate(entropy=0.1)}, "set training__gate_entropy"),
        ({"gate": LinearGate(balance=0.1)}, "set training__balance"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings, message):
    X, y = make_table(n=30)
    with pytest.raises(InputError, match=message):
        _joint(**settings).fit(X, y)


def test_divergence_is_told_with_the_way_out():
    X, y = make_table(n=30)
    with pytest.raises(InputError, match=r"diverged in epoch \d+: .* Lower association_lr"):
        _joint(training=JointTraining(association_lr=1e200, diversity=1.0)).fit(X, y)


# ---- collapse --------------------------------------------------------------------------------


def _collapsed(training, activation, shots, seed):
    """Tell whether one expert gets more than 0.99 of the weight over all rows.

    Each expert is right in half of the rows: the best gate gives each a half.
    """
    X, y = draw_rows(shots, seed)
    clf = _joint(activation=activation, experts=TWELVE, training=training, random_state=seed)
    return clf.fit(X, y).gate_weights(draw_rows(100, 999)[0]).mean(axis=0).max() > 0.99


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_no_start_collapses_with_the_defaults(activation):
    starts = [(shots, seed) for shots in (8, 50, 400) for seed in range(12)]
    collapsed = [_collapsed(JointTraining(), activation, *start) for start in starts]
    assert len(collapsed) == 36 and sum(collapsed) == 0


def _same_training(fits):
    for name in ("validation_loss", "train_loss"):
        np.testing.assert_allclose(*(f.training_history_[name] for f in fits), rtol=1e-12)
    for heads in zip(*(f.heads_ for f in fits), strict=True):
        np.testing.assert_allclose(*(head.association_ for head in heads), rtol=1e-10)


@pytest.mark.parametrize("l1", [0.0, 1e-3])
@pytest.mark.parametrize("pool", ["logit", "prob"])
def test_how_a_prior_lies_in_memory_decides_nothing(pool, l1):
    """The fused optimizer takes numbers as they lie, and on a CPU does not ask how."""
    X, y = make_blocks(classes=True)
    matrix = 0.1 * np.random.default_rng(0).standard_normal((3, 6))
    training = JointTraining(max_epochs=3, l1=l1)
    fits = [
        _joint(
            experts=[("a", slice(0, 6))],
            pool=pool,
            training=training,
            head={"prior": np.array(matrix, order=layout)},
        ).fit(np.asarray(X), y)
        for layout in "CF"
    ]
    _same_training(fits)


def test_concepts_written_for_the_classes_train_as_the_same_matrix_does():
    X, y = make_blocks(sizes=(6,), classes=True)
    matrix = np.ascontiguousarray(X.blocks[0].incidence.T, dtype=float)
    training = JointTraining(max_epochs=3)
    written, given = (
        _joint(experts="auto", training=training, head={"prior": prior}).fit(X, y)
        for prior in ("class", matrix)
    )
    assert written.prior_used_ == {"a": "class"}
    _same_training([written, given])
