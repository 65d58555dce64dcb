"""Sets of classes from `CrossModalMoEClassifier`, whose rows are tokens and no table."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skmoecbm import calibrate_sets, load, predict_set, save
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import CrossModalMoEClassifier, MiniBatches
from tests.moe.planted_tokens import two_parts


@pytest.fixture(scope="module")
def fitted():
    X, y = two_parts(120, 0, missing=0.3)
    training = MiniBatches(max_epochs=4, batch_size=64)
    clf = CrossModalMoEClassifier(
        n_experts=2, width=8, expert_hidden=8, training=training, random_state=0
    )
    return clf.fit(X, y)


@pytest.mark.parametrize("piped", [False, True])
def test_sets_are_those_of_the_quantile(fitted, piped, tmp_path):
    model = make_pipeline("passthrough", fitted) if piped else fitted
    (X, y), (others, _) = two_parts(59, 1, missing=0.3), two_parts(40, 2, missing=0.3)
    calibrated = calibrate_sets(model, X, y)
    scores = np.sort(1.0 - fitted.predict_proba(X)[np.arange(59), np.searchsorted([0, 1, 2], y)])
    threshold = scores[int(np.ceil(60 * 0.8)) - 1]
    truth = 1.0 - fitted.predict_proba(others) <= threshold + 1e-9
    sets = predict_set(calibrated, others, 0.8, allow_empty=True)
    assert np.array_equal(sets, truth) and 0 < truth.mean() < 1
    if not piped:
        save(calibrated, tmp_path / "model")
        again = predict_set(load(tmp_path / "model"), others, 0.8, allow_empty=True)
        assert np.array_equal(again, sets)


def test_rows_of_nothing_hold_all_classes_and_a_view_has_no_sets(fitted):
    X, y = two_parts(80, 1, missing=0.3)
    calibrated = calibrate_sets(fitted, X, y)
    with pytest.raises(InputError, match="a view of `without`"):
        predict_set(calibrated.without("text"), X)
    view = calibrate_sets(fitted.without("image"), X, y)
    blind = ~X.present[:, 1]  # without the image a row that lacks the report has nothing
    assert blind.any() and view.set_calibration_.scores.shape == ((~blind).sum(),)
    with pytest.warns(SkmoecbmWarning, match="hold all classes"):
        sets = predict_set(view, X, 0.5)
    assert sets[blind].all() and not sets[~blind].all()
