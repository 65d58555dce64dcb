"""Two lines from a data set to an experiment, on the demo experts."""

import numpy as np
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    evaluate,
    explain,
    load_concepts,
)
from skmoecbm.datasets import check_leak, fetch_chestxray14, fetch_ham10000, fetch_medmnist

EXPERTS = ("demo-general", "demo-structures")


CONCEPTS = load_concepts("lesions")  # all that the demo experts know, whatever they look at


def encoders():
    return ExpertUnion([(name, ConceptEncoder(name, CONCEPTS)) for name in EXPERTS])


def some(part, n):
    """A few rows of a part: a test has no time for all."""
    return part.take(np.sort(np.random.default_rng(0).permutation(len(part.images))[:n]))


def test_lesions(data_dir):
    data = fetch_ham10000(data_dir / "ham10000")
    train, test = some(data.part("train"), 240), some(data.part("test"), 150)
    model = make_pipeline(encoders(), GatedConceptBottleneckClassifier(random_state=0))
    model.fit(train.images, train.target, gatedconceptbottleneckclassifier__groups=train.groups)
    result = evaluate(model, test.images, test.target, groups=test.groups, n_bootstrap=50)
    assert result["macro_auroc"].value > 0.6
    assert set(model.classes_) <= set(data.target_names)
    # names of classes in the bank are those of the target, so that concepts know their class
    assert "melanoma" in str(explain(model, test.images[:1]))
    features = model[0].transform(data.images[:40])
    report = check_leak(features, data.groups[:40], (range(0, 40, 2), range(1, 40, 2)))
    shared = np.isin(data.groups[1:40:2], data.groups[0:40:2])
    np.testing.assert_array_equal(report.found["group"] >= 0, shared)
    assert shared.any() and {"identical", "near"} <= set(report.counts())


def test_findings(data_dir):
    data = fetch_chestxray14(data_dir / "chestxray14_1000")
    train, test = some(data.part("train"), 300), data.part("test")
    head = ConceptBottleneckClassifier(prior=None)  # the concepts are not for these labels
    model = make_pipeline(encoders(), GatedConceptBottleneckClassifier(head, random_state=0))
    model.fit(train.images, train.target, gatedconceptbottleneckclassifier__groups=train.groups)
    result = evaluate(model, test.images, test.target, groups=test.groups, n_bootstrap=0)
    assert 0.4 < result[data.metric].value < 1
    assert list(model.classes_) == data.target_names


def test_grades(data_dir):
    data = fetch_medmnist("retinamnist", root=data_dir / "medmnist")
    train, test = some(data.part("train"), 200), data.part("val")
    encoder = ConceptEncoder("demo-general", CONCEPTS)
    model = make_pipeline(encoder, ConceptBottleneckClassifier(prior=None))
    grid = {"conceptbottleneckclassifier__alpha": [0.1, 10.0]}
    search = GridSearchCV(model, grid, scoring=data.scoring, cv=2)
    search.fit(train.images, train.target)
    assert search.score(test.images, test.target) > 0
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_images_and_groups_go_through_splitters(data_dir):
    X, y = fetch_ham10000(data_dir / "ham10000_fullsize", return_X_y=True)
    encoder = ConceptEncoder("demo-structures", CONCEPTS)
    model = make_pipeline(encoder, ConceptBottleneckClassifier(alpha=1.0))
    for train, test in GroupKFold(3).split(X, y, np.arange(len(X)) // 2):
        assert model.fit(X[train], y[train]).predict(X[test]).shape == (len(test),)
