"""Splits by group, and splits that warn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skmoecbm.datasets._splits import (
    PARTS,
    Splits,
    group_split,
    rows_left,
    split_of_column,
    strange_parts,
)
from skmoecbm.exceptions import InputError, SkmoecbmWarning


@given(st.data())
def test_no_group_is_in_two_parts_whatever_the_data(data):
    n = data.draw(st.integers(10, 80))
    groups = data.draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    target = np.array(data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)))
    if data.draw(st.booleans()):
        target = (target[:, None] == ["a", "b"]).astype(float)
    if len(set(groups)) < 10:
        with pytest.raises(InputError, match="at least 10 groups"):
            group_split(range(n), target, groups)
        return
    parts = group_split([f"{k:03d}" for k in range(n)], target, groups)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    sides = [set(np.array(groups)[parts[part]].tolist()) for part in PARTS]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert all(sides)


def test_the_order_of_rows_and_the_names_of_groups_change_nothing():
    rng = np.random.default_rng(0)
    ids = np.array([f"im{k}" for k in range(300)])
    groups, target = rng.integers(0, 90, 300), rng.choice(list("abc"), 300)
    names = np.array([f"p{(5 * k) % 91}" for k in range(91)])
    whole = group_split(ids, target, groups)
    mixed = rng.permutation(300)
    again = group_split(ids[mixed], target[mixed], names[groups[mixed]])
    for part in PARTS:
        assert set(ids[whole[part]]) == set(ids[mixed][again[part]])
    other = group_split(ids, target, groups, seed=1)
    assert set(other["test"]) != set(whole["test"])


def test_every_class_is_in_proportion(data_dir):
    table = pd.read_csv(data_dir / "ham10000" / "metadata.csv")
    parts = group_split(table["image_id"], table["dx"], table["lesion_id"])
    for part, share in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
        found = table["dx"].iloc[parts[part]].value_counts() / table["dx"].value_counts()
        assert len(parts[part]) / len(table) == pytest.approx(share, abs=0.005)
        assert (found - share).abs().max() < 0.05
    # what was published once must not move with a new scikit-learn
    first = sorted(table["image_id"].iloc[parts["test"]])[:4]
    assert first == ["ISIC_0024311", "ISIC_0024314", "ISIC_0024317", "ISIC_0024324"]


def test_a_split_with_a_trap_warns_when_it_is_taken_and_not_before():
    rows = {"train": np.array([0, 1]), "test": np.array([2])}
    splits = Splits({"group": rows, "old": rows}, {"old": "shares lesions"}, absent={"x": "Get x."})
    assert "old" in splits and list(splits) == ["group", "old"] and len(splits) == 2
    assert splits.default == "group" and "old" in repr(splits)
    assert splits["group"] is rows and splits.rows("old") is rows
    for take in (
        lambda: splits["old"],
        lambda: splits.get("old"),
        lambda: dict(splits),
        lambda: list(splits.values()),
        lambda: list(splits.items()),
    ):
        with pytest.warns(SkmoecbmWarning, match="shares lesions"):
            take()
    with pytest.raises(KeyError, match=r"no split 'x'; there is 'group', 'old'\. Get x\."):
        splits["x"]
    assert splits.get("y") is None


def test_the_words_of_a_column_are_parts():
    parts = split_of_column(["Train", "valid", " test", "", None, "train", "validation", "other"])
    assert {part: rows.tolist() for part, rows in parts.items()} == {
        "train": [0, 5],
        "val": [1, 6],
        "test": [2],
    }
    assert split_of_column(["a", "b"]) == {}


def test_a_word_that_is_no_part_is_told():
    column = ["train", "tset", "TSET ", "Valid", "", None, float("nan"), pd.NA, "dev"]
    told = strange_parts(column, "fold")
    assert told.startswith("2 rows are in no part of the split of column 'fold', which says 'TSET ")
    assert told.endswith("'tset' there instead of 'train', 'val', 'test'.")
    assert strange_parts(["train", "", "test"], "fold") is None
    splits = Splits({"a": {}, "b": {}}, {"a": "Known."})
    splits.add_traps({"a": "New.", "b": "Alone."})
    assert splits.traps == {"a": "Known. New.", "b": "Alone."}


def test_rows_that_are_left_out_move_the_others():
    here = np.array([True, False, True, True, False])
    left = rows_left({"train": np.array([0, 1, 3]), "test": np.array([2, 4])}, here)
    assert {part: rows.tolist() for part, rows in left.items()} == {"train": [0, 2], "test": [1]}
