"""Groups reach the folds, the guard and early stopping on every way into `fit`."""

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skmoecbm._joint_fit
import skmoecbm._mixture
from skmoecbm import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier, JointTraining

EXPERTS = [("a", slice(0, 3)), ("b", slice(3, 6))]


def lesions(n_groups=60, seed=0):
    """Return X (n, 6), y and the lesion of each row, three pictures of each, shuffled."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6))
    y = np.arange(n_groups) % 3
    groups = rng.permutation(np.repeat(np.arange(n_groups), 3))
    own = centres[y] + rng.normal(size=(n_groups, 6))
    X = own[groups] + 0.3 * rng.normal(size=(len(groups), 6))
    return X, y[groups], np.array([f"lesion {g}" for g in groups])


def make_model(**settings):
    classifier = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=EXPERTS, random_state=0, **settings
    )
    return make_pipeline(FunctionTransformer(), classifier)


def requested(model):
    """Return the pipeline with its classifier asking for groups."""
    model[-1].set_fit_request(groups=True)
    return model


def by_step(model, X, y, groups):
    return model.fit(X, y, gatedconceptbottleneckclassifier__groups=groups)


def by_routing(model, X, y, groups):
    with sklearn.config_context(enable_metadata_routing=True):
        return requested(model).fit(X, y, groups=groups)


def by_search(model, X, y, groups):
    grid = {"gatedconceptbottleneckclassifier__pool": ["logit"]}
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(requested(model), grid, cv=GroupKFold(3))
        return search.fit(X, y, groups=groups).best_estimator_


WAYS = pytest.mark.parametrize("way", [by_step, by_routing, by_search])


@WAYS
def test_a_pipeline_learns_what_the_classifier_learns_with_groups(way):
    X, y, groups = lesions()
    direct = make_model()[-1].fit(X, y, groups=groups)
    without = make_model()[-1].fit(X, y)
    found = way(make_model(), X, y, groups)[-1]
    np.testing.assert_array_equal(found.oof_logits_, direct.oof_logits_)
    assert found.oof_log_loss_ == direct.oof_log_loss_ != without.oof_log_loss_


class Calls(list):
    """A function that keeps what it was called with and gave back."""

    def around(self, function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            self.append((args, kwargs, result))
            return result

        return wrapped


@WAYS
def test_lesions_never_straddle_folds_and_are_what_the_guard_counts(way, monkeypatch):
    X, y, groups = lesions()
    fitted, guarded = Calls(), Calls()
    mixture = skmoecbm._mixture
    monkeypatch.setattr("skmoecbm._second_stage.fit_mixture", fitted.around(mixture.fit_mixture))
    monkeypatch.setattr(mixture, "choose", guarded.around(mixture.choose))
    way(make_model(), X, y, groups)
    assert len(fitted) == len(guarded) == (4 if way is by_search else 1)
    for (args, kwargs, _), (guard_args, _, _) in zip(fitted, guarded, strict=True):
        held_out, numbers = args[5], kwargs["groups"]
        assert len(set(held_out.tolist())) > 1
        for number in np.unique(numbers):
            assert len(set(held_out[numbers == number].tolist())) == 1
        np.testing.assert_array_equal(guard_args[2], numbers)
    # Of the last fit, on all rows: the numbers part the rows as the lesions do.
    pairs = set(zip(groups.tolist(), fitted[-1][1]["groups"].tolist(), strict=True))
    assert len(pairs) == len(set(groups.tolist())) == 60


@WAYS
def test_early_stopping_holds_out_whole_lesions(way, monkeypatch):
    X, y, groups = lesions()
    calls = Calls()
    joint = skmoecbm._joint_fit
    monkeypatch.setattr(joint, "split_rows", calls.around(joint.split_rows))
    model = make_model(training=JointTraining(max_epochs=3, validation_fraction=0.3))
    model[-1].set_params(head=ConceptBottleneckClassifier(prior=None))
    found = way(model, X, y, groups)
    assert found[-1].training_history_["early_stopping"] is True
    for args, _, (train, held_out, reason) in calls:
        assert reason is None and held_out.sum() >= 16
        assert not set(args[2][train]) & set(args[2][held_out])
    train, held_out, _ = calls[-1][2]
    assert not set(groups[train]) & set(groups[held_out])


def test_cross_validate_gives_each_part_its_own_lesions(monkeypatch):
    X, y, groups = lesions()
    fitted = Calls()
    monkeypatch.setattr(
        "skmoecbm._second_stage.fit_mixture", fitted.around(skmoecbm._mixture.fit_mixture)
    )
    with sklearn.config_context(enable_metadata_routing=True):
        model = requested(make_model())
        result = cross_validate(
            model, X, y, cv=GroupKFold(4), params={"groups": groups}, return_indices=True
        )
    assert len(fitted) == 4
    for train, test, (args, kwargs, _) in zip(
        result["indices"]["train"], result["indices"]["test"], fitted, strict=True
    ):
        assert not set(groups[train]) & set(groups[test])
        pairs = set(zip(groups[train].tolist(), kwargs["groups"].tolist(), strict=True))
        assert len(pairs) == len(set(groups[train].tolist()))
        for number in np.unique(kwargs["groups"]):
            assert len(set(args[5][kwargs["groups"] == number].tolist())) == 1


def test_groups_that_nobody_asked_for_are_refused_by_scikit_learn():
    X, y, groups = lesions()
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="groups"):
            make_model().fit(X, y, groups=groups)


def test_the_guard_counts_copies_of_a_lesion_once():
    # The same few rows many times over are no more evidence for a gate than the few.
    rng = np.random.default_rng(0)
    gains = rng.normal(0.05, 0.2, size=24)
    rows = {"uniform": np.repeat(gains, 20), "linear": np.zeros(480)}
    guard = skmoecbm._mixture.choose
    once = guard({"uniform": gains, "linear": np.zeros(24)}, np.ones(24))
    assert guard(rows, np.ones(480), np.repeat(np.arange(24), 20)) == once == "uniform"
    assert guard(rows, np.ones(480)) == "linear"
