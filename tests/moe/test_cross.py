import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoecbm.moe import CrossModalMoEClassifier, MiniBatches

# A weight scales a row's loss, a second copy also changes which rows share a batch.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "mini-batches are drawn by row, not by weight"
}


@parametrize_with_checks(
    [
        CrossModalMoEClassifier(
            n_experts=2, width=8, expert_hidden=8, training=MiniBatches(max_epochs=60)
        ),
    ],
    expected_failed_checks=lambda estimator: STOCHASTIC,
)
@pytest.mark.filterwarnings("ignore:X is a plain array:skmoecbm.exceptions.SkmoecbmWarning")
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)
