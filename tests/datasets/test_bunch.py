"""The Bunch of a data set."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from skmoecbm.datasets._bunch import describe_data, image_bunch
from skmoecbm.exceptions import InputError, SkmoecbmWarning


def bunch(**changes):
    parts = {
        "name": "ham10000",
        "images": [f"{k}.png" for k in range(6)],
        "target": list("ababab"),
        "target_names": ["a", "b"],
        "groups": list("uuvvww"),
        "group_word": "lesion",
        "reports": [f"report {k}" for k in range(6)],
        "metadata": pd.DataFrame({"age": range(6)}, index=range(10, 16)),
        "splits": {
            "group": {"test": [4, 5], "train": [3, 0, 1, 2]},
            "old": {"train": [0, 2, 4], "val": [3], "test": [1, 5]},
        },
    }
    return image_bunch(**{**parts, **changes})


def test_a_part_has_the_rows_of_everything():
    data = bunch()
    part = data.part("train")
    assert part.images.tolist() == ["0.png", "1.png", "2.png", "3.png"]
    assert part.target.tolist() == list("abab") and part.groups.tolist() == list("uuvv")
    assert part.reports.tolist() == [f"report {k}" for k in range(4)]
    assert part.metadata["age"].tolist() == [0, 1, 2, 3]
    assert part.metadata.index.tolist() == [0, 1, 2, 3] and part.rows.tolist() == [0, 1, 2, 3]
    assert part.target_names == ["a", "b"] and part.DESCR == data.DESCR
    assert data["images"] is data.images
    assert part.take([3, 1]).rows.tolist() == [3, 1]
    assert data.part("test").take([1]).rows.tolist() == [5]
    with pytest.raises(InputError, match="a part already"):
        part.part("train")


def test_a_split_that_shares_groups_says_how_many():
    data = bunch()
    with pytest.warns(SkmoecbmWarning, match=r"not lesions: 2 of its 2 test images here are of a"):
        part = data.part("test", "old")
    assert part.images.tolist() == ["1.png", "5.png"]
    assert bunch(groups=None).part("test", "old").groups is None


def test_what_is_not_there_is_named():
    data = bunch(absent_splits={"new": "Make it."})
    with pytest.raises(InputError, match=r"no split 'new'; there is 'group', 'old'\. Make it\."):
        data.part("train", "new")
    with pytest.raises(InputError, match=r"'group' of ham10000 has no part 'val'\. It has 'train'"):
        data.part("val")


def test_an_indicator_is_a_frame_whose_columns_are_the_labels():
    indicator = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [1, 0]])
    data = bunch(target=indicator)
    assert list(data.target.columns) == ["a", "b"]
    part = data.part("test")
    assert part.target.to_numpy().tolist() == [[0, 0], [1, 0]]
    assert list(part.target.index) == [0, 1]
    unknown = indicator.astype(float)
    unknown[2, 1] = np.nan
    assert np.isnan(bunch(target=unknown).target.loc[2, "b"])
    with pytest.raises(InputError, match=r"holds \[0, 1, 2\], not 0 and 1"):
        bunch(target=indicator * [[2, 1]])
    with pytest.raises(InputError, match="1 columns for 2 labels"):
        bunch(target=indicator[:, :1])


def test_a_stack_is_cut_without_a_copy_where_rows_are_neighbours():
    stack = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4, 1)
    data = bunch(images=stack)
    assert np.shares_memory(data.part("train").images, stack)
    np.testing.assert_array_equal(data.part("train").images, stack[:4])
    np.testing.assert_array_equal(data.take([5, 0]).images, stack[[5, 0]])
    np.testing.assert_array_equal(data.take([]).images, stack[:0])


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(6) % 2 == 0,
        [True, False, False, True, True, False],
        pd.Series([False, True, True, False, False, False], index=range(5, -1, -1)),
        pd.Series([False, True, True, False, False, False], dtype="boolean"),
        pd.Series([5, 0, 5], dtype="Int64"),
        [-1],
        [-1, 0, 1],
        [-2, -1],
        np.array([5, 2, 2], dtype=np.uint8),
        range(4, 1, -1),
        slice(None, None, -2),
        slice(-2, None),
        [],
        [False] * 6,
    ],
    ids=repr,
)
@pytest.mark.parametrize("stacked", [False, True])
def test_rows_are_chosen_as_numpy_does(rows, stacked):
    stack = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4, 1)
    data = bunch(images=stack) if stacked else bunch()
    index = rows  # what numpy takes: an empty list has no type, pandas' own types are no numbers
    if not isinstance(rows, slice):
        index = np.array(list(rows), dtype=None if len(rows) else int)
    part = data.take(rows)
    np.testing.assert_array_equal(part.images, data.images[index])
    np.testing.assert_array_equal(part.target, data.target[index])
    np.testing.assert_array_equal(part.groups, data.groups[index])
    np.testing.assert_array_equal(part.rows, np.arange(6)[index])
    assert part.metadata["age"].tolist() == np.arange(6)[index].tolist()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (2, r"or a slice \(one row is \[row\]\)\. Got 2 instead"),
        (np.int64(2), r"one row is \[row\]"),
        (True, "a mask of True and False, or a slice. Got True"),
        (None, "must be a list of numbers of rows"),
        ("ab", "must be a list of numbers of rows.* Got 'ab' instead"),
        (["a"], r"must be a list of numbers of rows.* Got \['a'\] instead"),
        ([0.0, 1.0], r"must be a list of numbers of rows.* Got \[0.0, 1.0\] instead"),
        ([0, None], "must be a list of numbers of rows"),
        ([[0, 1]], "must be a list of numbers of rows"),
        ([[0], [1, 2]], "must be a list of numbers of rows"),
        (slice("a", None), "must be a slice of integers"),
        ([True, False], "mask with an entry for each of the 6 rows, not 2"),
        ([0, 6], r"rows of the 6 there are \(from -6 to 5\)\. Got 6 instead"),
        ([-7, 0], "Got -7 instead"),
    ],
    ids=repr,
)
def test_rows_that_are_none_are_one_sentence(rows, said):
    with pytest.raises(InputError, match=said):
        bunch().take(rows)


def test_an_empty_part_warns_and_is_shown():
    data = bunch(splits={"official": {"train": range(6), "val": []}})
    with pytest.warns(SkmoecbmWarning, match="The part 'val' of .* has no rows here") as told:
        part = data.part("val")
    assert len(told) == 1 and told[0].filename == __file__
    assert repr(part).startswith("ham10000, val of 'official': 0 images\n  images        none")
    assert "0 images" in repr(bunch(images=np.zeros((6, 2, 2, 1), "u1")).take([]))
    assert "a 0, b 0" in repr(bunch(target=[[1, 0]] * 6, groups=None).take([False] * 6))
    with pytest.raises(InputError, match=r"must be empty\. Got 0 instead"):
        part.take([0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": []}, "no images here"),
        ({"groups": list("uv")}, "6 images, but 2 rows of groups"),
        ({"target": list("ababac")}, "class 'c' .the first is row 5"),
        ({"splits": {"s": {"train": [0, 6]}}}, "outside of 0 to 5"),
        ({"splits": {"s": {"train": [0, -1]}}}, "outside of 0 to 5"),
        ({"splits": {"s": {"train": [0, 1], "test": [1]}}}, "in two parts at once"),
        ({"splits": {"s": {"train": [1, 1]}}}, "has a row twice"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        bunch(**changes)


def test_the_repr_is_short_and_tells_what_there_is():
    text = repr(bunch(images=[f"/very/long/{k}" for k in range(6)]))
    assert text.splitlines()[0] == "ham10000: 6 images"
    assert "a 3, b 3" in text and "3 different, the first 'u'" in text
    assert "'group' (default): train 4, test 2; 'old' (warns): train 3, val 1, test 2" in text
    assert len(text.splitlines()) < 15
    assert "indicator, a 6, b 0" in repr(bunch(target=[[1, 0]] * 6))
    assert "rows" in repr(bunch().part("train"))


def test_it_is_copied_and_pickled():
    for data in (copy.deepcopy(bunch()), pickle.loads(pickle.dumps(bunch()))):
        assert data.part("train").images.tolist() == bunch().part("train").images.tolist()
        with pytest.warns(SkmoecbmWarning):
            data.splits["old"]


@pytest.mark.parametrize(
    "name",
    "ham10000 chestxray14 chexpert covid_radiography lesions medmnist mimic_cxr".split(),
)
def test_every_description_has_licence_citation_and_groups(name):
    text = describe_data(name)
    for title in ("**Licence.**", "**Cite.**", "**Classes.**", "**Groups.**", "**Splits.**"):
        assert title in text
    assert name == "medmnist" or "**Traps.**" in text
    assert max(map(len, text.splitlines())) <= 110
