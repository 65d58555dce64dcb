"""Packed time series as other steps hand them over: scaled, in a table, with names of columns."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoecbm import ConceptBottleneckClassifier, save
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


def test_tables_are_read_as_the_block_or_as_series_in_cells():
    rows = [*series(20), None]
    X = pack_series(rows)
    names = [f"vitals__{i}" for i in range(X.shape[1])]
    reads = MultiTimeAttention(2, n_variables=3)
    grid = reads.fit_transform(X)
    table = pd.DataFrame(X, columns=names)
    assert np.array_equal(reads.fit_transform(table), grid, equal_nan=True)
    assert np.array_equal(reads.transform(table.astype(object)), grid, equal_nan=True)
    cells = pd.DataFrame({"vitals": pd.Series(rows, dtype=object)})
    assert np.array_equal(MultiTimeAttention(2).fit_transform(cells), grid, equal_nan=True)
    assert np.array_equal(reads.fit(cells["vitals"]).transform(cells), grid, equal_nan=True)
    with pytest.raises(InputError, match="Say n_variables="):
        MultiTimeAttention(2).fit(table)
    with pytest.raises(InputError, match=r"something else than numbers in it\. Give the columns"):
        reads.fit(table.assign(ward="A"))
    for odd in (np.nan, np.inf):
        with pytest.raises(InputError, match="Row 3 of the block is NaN in part, or infinite"):
            X_odd = X.copy()
            X_odd[3, 1] = odd
            reads.fit(X_odd)


def test_names_of_columns_are_taken_from_a_column_transformer():
    rows = series(20)
    X = pack_series(rows)
    names = [f"vitals__{i}" for i in range(X.shape[1])]
    table = pd.DataFrame(X, columns=names).assign(age=np.arange(20.0))
    parts = [
        ("vitals", MultiTimeAttention(2, n_variables=3), names),
        ("age", "passthrough", ["age"]),
    ]
    both = ColumnTransformer(parts).set_output(transform="pandas").fit(table)
    found = both.get_feature_names_out()
    grid = both.transform(table)
    assert found.tolist() == grid.columns.tolist() and len(found) == 2 * 3 * 2 + 1
    assert found[0].startswith("vitals__v0_at_") and found[-1] == "age__age"
    assert np.array_equal(grid.iloc[:, :-1], both.named_transformers_["vitals"].transform(X))
    cells = pd.DataFrame({"vitals": pd.Series(rows, dtype=object)})
    one = ColumnTransformer([("vitals", MultiTimeAttention(2), ["vitals"])]).fit(cells)
    assert one.get_feature_names_out().tolist() == found[:-1].tolist()
    with pytest.raises(InputError, match=r"There are 3 variables\. Got 2 names"):
        both.named_transformers_["vitals"].get_feature_names_out(["a", "b"])


LASTS = [LogisticRegression(), ConceptBottleneckClassifier(alpha=1.0)]


def test_that_it_is_not_saved_on_its_own_is_told(tmp_path):
    rows, y = series(20), np.arange(20) % 2
    reads = MultiTimeAttention(2).fit(rows)
    models = [make_pipeline(clone(reads), last) for last in LASTS]
    for model in [reads, *(model.fit(rows, y) for model in models)]:
        with pytest.raises(InputError, match=r"of its own is not saved in this format yet\. Keep"):
            save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
