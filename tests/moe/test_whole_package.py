"""Every public function on a sparse classifier: it works, or says in one sentence why not."""

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

import skmoecbm as sk
from skmoecbm.cli import main
from skmoecbm.exceptions import InputError
from skmoecbm.moe import MiniBatches, SparseMoEClassifier
from tests.moe.test_sparse import MODALITIES, small, three


@pytest.fixture(scope="module")
def fitted():
    X, y = three(150, 0, 0.3)
    clf = small(modalities=MODALITIES, training=MiniBatches(max_epochs=3)).fit(X, y)
    return clf, X, y


@pytest.mark.parametrize(
    "call",
    [
        lambda clf, X, y: sk.audit(clf, X, y),
        lambda clf, X, y: sk.model_report(clf, X),
        lambda clf, X, y: sk.intervene(clf, X, {"x0": 1.0}),
        lambda clf, X, y: sk.intervention_curve(clf, X, y, np.ones_like(X)),
        lambda clf, X, y: sk.edit(clf, forbid="x0"),
        lambda clf, X, y: sk.AssociationDisplay.from_estimator(clf),
    ],
)
def test_what_reads_concepts_says_that_there_are_none(fitted, call):
    with pytest.raises(InputError, match=r"sums over concepts.*come out of networks. Use explain"):
        call(*fitted)


def test_contributions_that_are_not_there_are_not_drawn(fitted):
    clf, X, _ = fitted
    with pytest.raises(InputError, match="no contributions of concepts"):
        sk.ConceptContributionDisplay.from_estimator(clf, X)


def test_a_search_and_a_head_of_concepts_are_not_for_networks(fitted):
    clf, X, y = fitted
    with pytest.raises(InputError, match="GridSearchCV searches over others"):
        sk.GatedConceptBottleneckClassifierCV(clf).fit(X, y)
    with pytest.raises(InputError, match="must be a ConceptBottleneckClassifier"):
        sk.GatedConceptBottleneckClassifier(clf).fit(X, y)


def test_the_app_is_for_concepts():
    from skmoecbm._app_desk import Desk

    with pytest.raises(InputError, match="The app reads decisions as sums over concepts"):
        Desk(make_pipeline(sk.ConceptEncoder("demo-general", ["blue"]), SparseMoEClassifier()))


def test_what_needs_probabilities_alone_works(fitted):
    clf, X, y = fitted
    found = sk.evaluate(clf, X, y, n_bootstrap=10, random_state=0)
    assert found["accuracy"].value == pytest.approx(clf.score(X, y))
    sets = sk.predict_set(sk.calibrate_sets(clf, X, y), X, coverage=0.8)
    assert sets[np.arange(len(y)), y].mean() >= 0.8
    assert sk.ReliabilityDisplay.from_estimator(clf, X, y) is not None
    labels = np.c_[y == 0, y == 1].astype(int)
    many = sk.tune_thresholds(clf.fit(X, labels), X, labels, cv=2)
    assert many.thresholds_.shape == (2,)
    assert np.array_equal(many.predict(X), many.predict_proba(X) >= many.thresholds_)


def test_a_sparse_classifier_may_be_the_expert_of_a_gate():
    X, y = three(150, 0)
    inner = SparseMoEClassifier(
        n_experts=2, expert_hidden=4, training=MiniBatches(max_epochs=2), random_state=0
    )
    experts = [("a", inner, slice(0, 5)), ("b", slice(5, 15))]
    gated = sk.GatedConceptBottleneckClassifier(experts=experts, cv=3, random_state=0).fit(X, y)
    assert np.allclose(gated.predict_proba(X).sum(axis=1), 1.0)


def test_embeddings_and_images_as_input():
    rng = np.random.default_rng(0)
    blocks = {"e": (rng.normal(size=(60, 8)), np.eye(4, 8), list("abcd"))}
    features = sk.ExpertFeatures.from_embeddings(blocks)
    clf = small(training=MiniBatches(max_epochs=2)).fit(features, np.arange(60) % 2)
    assert clf.modality_names_ == ["e"] and clf.predict(features).shape == (60,)
    with pytest.raises(InputError, match="X holds images"):
        clf.predict(["a.png"])


def test_it_is_found_in_both_places():
    assert sk.SparseMoEClassifier is SparseMoEClassifier


def test_explain_of_the_command_line_sends_to_python(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    encoder = sk.ConceptEncoder("demo-general", sk.load_concepts("lesions"))
    clf = small(training=MiniBatches(max_epochs=1))
    model = make_pipeline(encoder, clf).fit(list(images), np.arange(20) % 2)
    sk.save(model, tmp_path / "model")
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    words = ["explain", tmp_path / "model", tmp_path / "a.png", "--out", tmp_path / "why.png"]
    assert main(list(map(str, words))) != 0
    told = capsys.readouterr().err
    assert "Use `skmoecbm.explain` in Python, which tells whom rows are sent to" in told
