"""What experts and modalities add to a decision, and the picture of it."""

from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skmoecbm.exceptions import InputError
from skmoecbm.moe import CrossModalMoEClassifier, MiniBatches, SparseMoEClassifier, TokenFeatures
from tests.moe.test_sparse import MODALITIES, three

SPARSE = ["joint", "per_modality", "disjoint", "learned"]
CROSS = ["attention", "concat", "no mixture"]


def shown(value):
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if text[1:] == "0.00" else text


@cache
def fitted_sparse(kind):
    X, y = three(160, 0, 0.3)
    settings = {"router": kind, "n_experts": 4, "expert_hidden": 8, "random_state": 0}
    if kind == "learned":
        settings |= {"router": "disjoint", "missing": "learned", "gating": "laplace"}
    training = MiniBatches(max_epochs=25, batch_size=16, learning_rate=0.02, early_stopping=False)
    clf = SparseMoEClassifier(modalities=MODALITIES, training=training, **settings)
    clf.set_params(target_prevalence={0: 0.5, 1: 0.25, 2: 0.25}).fit(X, y)
    return clf, three(40, 1, 0.3)[0]


@cache
def fitted_cross(kind):
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    image = rng.standard_normal((90, 3, 4)) + np.eye(3, 4)[y][:, None]
    text = [rng.standard_normal((2, 3)) + np.eye(3)[k] if i % 4 else None for i, k in enumerate(y)]
    settings = {"fusion": "concat"} if kind == "concat" else {}
    settings |= {"moe": False} if kind == "no mixture" else {}
    training = MiniBatches(max_epochs=15, batch_size=16, learning_rate=0.02, early_stopping=False)
    clf = CrossModalMoEClassifier(
        n_experts=3, width=6, expert_hidden=6, training=training, random_state=0, **settings
    )
    X = TokenFeatures({"image": image, "text": text})
    return clf.fit(X, y), X[:30]


@pytest.fixture(params=SPARSE)
def sparse(request):
    return fitted_sparse(request.param)


@pytest.fixture(params=CROSS)
def cross(request):
    return fitted_cross(request.param)


@pytest.fixture(params=[*SPARSE, *CROSS])
def model(request):
    return (fitted_sparse if request.param in SPARSE else fitted_cross)(request.param)


def with_tensors(clf, X, change):
    """Return the decision where some tensors are 0 in part; `change` gets copies by name."""
    kept = clf.weights_
    clf.weights_ = {name: value.copy() for name, value in kept.items()}
    change(clf.weights_)
    try:
        return clf.decision_function(X)
    finally:
        clf.weights_ = kept


def silent(weights, but=None):
    """Make all experts silent but one, given by its place in the pool and the pool."""
    for name, value in weights.items():
        if name.startswith("pool") and name.endswith(("w2", "b2")):
            kept = np.zeros(len(value), dtype=bool)
            if but is not None and name.startswith(("pool.", f"pools.{but[1]}.")):
                kept[but[0]] = True
            value[~kept] = 0.0


def test_parts_add_up_and_are_what_each_expert_says_alone(model):
    clf, X = model
    told = clf.explain(X)
    added = told.expert_parts.sum(axis=1) + told.modality_parts.sum(axis=1) + told.constant
    assert np.allclose(added, clf.decision_function(X), rtol=0, atol=1e-10)
    assert np.allclose(told.logits, added, rtol=0, atol=1e-10)
    nobody = with_tensors(clf, X, silent)
    rest = told.modality_parts.sum(axis=1) + told.constant
    assert np.allclose(rest, nobody, rtol=0, atol=1e-10)
    in_pool = told.weights.shape[2]
    for e in range(len(told.expert_names)):
        one = (e % in_pool, e // in_pool)
        alone = with_tensors(clf, X, lambda weights, one=one: silent(weights, one)) - nobody
        assert np.allclose(told.expert_parts[:, e], alone, rtol=0, atol=1e-10)
        assert (told.expert_parts[told.expert_weights[:, e] == 0, e] == 0).all()
    assert np.abs(told.expert_parts).max() > 0.1


def test_the_linear_part_of_a_modality_is_that_of_its_columns_and_its_mark(sparse):
    clf, X = sparse
    told = clf.explain(X)
    whole = clf.decision_function(X)
    for m in range(3):

        def without(weights, m=m):
            weights["linear"][:, [*range(5 * m, 5 * m + 5), 15 + m]] = 0.0

        assert np.allclose(told.modality_parts[:, m], whole - with_tensors(clf, X, without))
        gone = ~told.modality_present[:, m]
        assert np.allclose(told.modality_parts[gone, m], clf.weights_["linear"][:, 15 + m])


def test_the_part_of_a_stream_is_what_the_head_makes_of_it(cross):
    clf, X = cross
    told = clf.explain(X)
    shares = clf.stream_weights(X)
    assert (told.modality_parts[shares == 0] == 0).all()
    alone = shares[:, 1] == 0  # of an image alone all that is said beside the experts
    assert alone.any()
    nobody = with_tensors(clf, X, silent) - told.constant
    assert np.allclose(told.modality_parts[alone, 0], nobody[alone], rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore::skmoecbm.exceptions.SkmoecbmWarning")
def test_of_a_row_of_nothing_all_is_constant():
    X, y = three(60, 0, 0.3)
    X[3] = np.nan
    training = MiniBatches(max_epochs=2)
    clf = SparseMoEClassifier(
        n_experts=2, expert_hidden=4, modalities=MODALITIES, training=training
    )
    told = clf.fit(X, y).explain(X[:6])
    assert (told.expert_parts[3] == 0).all() and (told.modality_parts[3] == 0).all()
    assert np.array_equal(told.constant[3], told.logits[3])
    assert "No expert saw this: class frequencies alone" in texts(told.plot(3))


def bars(figure):
    """Return label -> (width, number written beside it) of the widest axes with bars."""
    found = {}
    for axes in figure.axes:
        for container, note in zip(axes.containers, axes.texts, strict=False):
            found[container.get_label()] = (container[0].get_width(), note.get_text())
    return found


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_the_picture_has_the_numbers_of_the_explanation(model):
    clf, X = model
    told = clf.explain(X)
    for row in (1, 7):
        figure = told.plot(row, k=20)
        k = told.columns.index(told.predicted[row])
        drawn = bars(figure)
        expected = {"constant": told.constant[row, k], "sum = logit": told.logits[row, k]}
        for m, name in enumerate(told.modality_names):
            there = "" if told.modality_present[row, m] else " (missing)"
            expected[f"{name}{there}"] = told.modality_parts[row, m, k]
        asked = np.flatnonzero(told.expert_weights[row])
        for e in asked:
            share = told.expert_weights[row, e]
            expected[f"{told.expert_names[e]} ({100 * share:.0f} %)"] = told.expert_parts[row, e, k]
        assert set(drawn) == set(expected)
        for name, value in expected.items():
            assert drawn[name][0] == pytest.approx(value, abs=1e-12)
            assert drawn[name][1] == shown(value)
        shares = next(axes for axes in figure.axes if axes.get_xlim() == (0.0, 1.0))
        widths = [patch.get_width() for patch in shares.patches]
        assert np.allclose(widths, sorted(told.expert_weights[row, asked], reverse=True))
        for e in asked:
            assert told.expert_names[e] in texts(figure)


def test_what_would_be_without_a_modality_stands_beside_it(sparse):
    clf, X = sparse
    told = clf.explain(X)
    row = int(np.flatnonzero(told.modality_present.all(axis=1))[0])
    words = texts(told.plot(row))
    for m, (name, columns) in enumerate(MODALITIES.items()):
        lacking = X[row : row + 1].copy()
        lacking[:, columns] = np.nan
        left = clf.predict_proba(lacking)[0, told.predicted[row]]
        at = words.index(f"without {name}")
        assert words[at + 1] == f"{left:.2f}", m


def test_what_is_not_shown_is_in_one_bar_and_the_sum_stays(sparse):
    clf, X = sparse
    told = clf.explain(X)
    row = int(np.argmax((told.expert_weights > 0).sum(axis=1)))
    for label in (0, 2):
        drawn = {
            name: width for name, (width, _) in bars(told.plot(row, k=1, class_=label)).items()
        }
        n = int((told.expert_weights[row] > 0).sum()) - 1
        top = int(np.argmax(told.expert_weights[row]))
        others = told.expert_parts[row, :, label].sum() - told.expert_parts[row, top, label]
        assert drawn[f"{n} other expert{'s' * (n > 1)}"] == pytest.approx(others, abs=1e-12)
        total = drawn.pop("sum = logit")
        assert total == pytest.approx(told.logits[row, label])
        assert sum(drawn.values()) == pytest.approx(total) and "2 other modalities" in drawn


def test_of_two_classes_the_first_is_what_speaks_against_the_second():
    X, y = three(100, 0)
    training = MiniBatches(max_epochs=3)
    clf = SparseMoEClassifier(n_experts=2, expert_hidden=4, training=training, random_state=0)
    told = clf.fit(X, np.array(["benign", "mel"])[y % 2]).explain(X)
    for label, sign in (("mel", 1), ("benign", -1)):
        figure = told.plot(0, class_=label)
        assert bars(figure)["sum = logit"][0] == pytest.approx(sign * told.logits[0, 0])
        assert any("that is a probability of" in text for text in texts(figure))
    row = int(np.flatnonzero(told.predicted == "benign")[0])
    assert bars(told.plot(row))["sum = logit"][0] == pytest.approx(-told.logits[row, 0])
    # and of several labels each has a threshold
    labels = np.c_[y == 0, y == 1].astype(int)
    told = clf.fit(X, labels).explain(X)
    words = texts(told.plot(1, class_=1))
    assert any("it is from 0.5 on" in text for text in words)
    assert bars(told.plot(1, class_=1))["sum = logit"][0] == pytest.approx(told.logits[1, 1])


def test_all_of_the_picture_is_on_the_page_and_pyplot_is_left_alone(sparse, tmp_path):
    clf, X = sparse
    before = plt.get_fignums()
    figure = clf.explain(X).plot()
    assert plt.get_fignums() == before
    figure.savefig(tmp_path / "rows.png")
    assert sum("· predicted ·" in text for text in texts(figure)) == 8
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts]
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for text in axes.texts:
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_bars_of_one_length_are_the_same_if_that_is_asked_for(sparse):
    clf, X = sparse
    told = clf.explain(X)
    for same in (True, False):
        drawn = [a for a in told.plot([0, 1, 2], same_scale=same).axes if a.containers]
        scales = [axes.get_xlim() for axes in drawn if axes.texts]  # not those of the shares
        assert len(scales) == 3 and len(set(scales)) == (1 if same else 3)


@pytest.mark.parametrize(
    ("rows", "settings", "told"),
    [
        (0, {"k": 0}, "'k' parameter of RoutingExplanation.plot"),
        (None, {"max_rows": 0}, "'max_rows'"),
        (40, {}, "'rows'"),
        ([0, -1], {}, "'rows'"),
        ([], {}, "Name at least one"),
        (0, {"class_": 9}, r"no class 9; there are \[0, 1, 2\]"),
    ],
)
def test_pictures_that_cannot_be_are_told(rows, settings, told, sparse):
    clf, X = sparse
    with pytest.raises(InputError, match=told):
        clf.explain(X).plot(rows, **settings)


def test_a_class_called_0_is_a_class_where_it_would_be_said_instead():
    clf, X = fitted_cross("attention")
    told = clf.explain(X)
    both = np.flatnonzero(told.modality_present.all(axis=1) & (told.predicted != 0))
    turned = [
        row for row in both if clf.without("image").predict(X[int(row) : int(row) + 1])[0] == 0
    ]
    words = texts(told.plot(int(turned[0])))
    assert words[words.index("without image") + 2] == "(0 instead)"
