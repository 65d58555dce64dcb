"""Packed time series as other steps hand them over: scaled, in a table, with names of columns."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from skmoecbm.exceptions import InputError
from skmoecbm.moe import MiniBatches, MultiTimeAttention, SparseMoEClassifier, pack_series


def series(n, seed=0):
    """Return rows of 1 to 5 measurements of three variables, some of them NaN."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        values = rng.normal(size=(rng.integers(1, 6), 3))
        values[1:][rng.random(values[1:].shape) < 0.3] = np.nan
        rows.append((rng.uniform(0.0, 9.0, len(values)), values))
    return rows


SCALED = "The masks of the time series {!r} are not 0 or 1: was the block scaled or imputed"


def test_a_block_that_was_scaled_or_misread_is_refused_at_fit_and_at_predict():
    X, y = pack_series(series(40)), np.arange(40) % 2
    scaled = StandardScaler().fit_transform(X)
    clf = SparseMoEClassifier(
        n_experts=2,
        top_k=1,
        expert_hidden=4,
        modalities={"vitals": slice(None)},
        time_series={"vitals": MultiTimeAttention(2, n_variables=3)},
        training=MiniBatches(max_epochs=1),
        random_state=0,
    )
    with pytest.raises(InputError, match=SCALED.format("vitals")):
        clf.fit(scaled, y)
    with pytest.raises(InputError, match=SCALED.format("vitals")):
        clf.fit(X, y).predict(scaled)
    misread = clf.set_params(time_series={"vitals": MultiTimeAttention(2, n_variables=2)})
    with pytest.raises(InputError, match="or is n_variables not 2"):
        misread.fit(X, y)  # 5 slots of 7 columns are 7 of 5
    alone = MultiTimeAttention(2, n_variables=3)
    with pytest.raises(InputError, match=SCALED.format("X")):
        alone.fit(scaled)
    with pytest.raises(InputError, match=SCALED.format("X")):
        alone.fit(X).transform(scaled)
