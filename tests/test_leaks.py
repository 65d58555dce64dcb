"""What training and test images share, against counts made by other means."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skmoecbm import ConceptEncoder, ExpertFeatures, ExpertUnion, load_concepts
from skmoecbm._leaks import find_leaks
from skmoecbm.datasets import check_leak, make_lesions
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.exceptions import InputError, SkmoecbmWarning


def features(*blocks):
    """Features of experts "a", "b", ... with these embeddings."""
    return ExpertFeatures.from_embeddings(
        {
            name: (E, np.eye(2, E.shape[1]), ["one", "two"])
            for name, E in zip("abc", blocks, strict=False)
        }
    )


def test_identical_pictures_are_found_whatever_file_they_come_in(tmp_path):
    images = list(make_lesions(8, random_state=0).images)
    Image.fromarray(images[2]).save(tmp_path / "same.png")
    Image.fromarray(images[5]).save(tmp_path / "other.bmp")
    test = [tmp_path / "same.png", images[7], str(tmp_path / "other.bmp"), images[1]]
    report = check_leak(images[:6], test)
    assert report.found["identical"].tolist() == [2, -1, 5, 1]
    assert report.leaking.tolist() == [True, False, True, True]
    assert report.counts() == {"identical": 3}
    assert bool(report) and not check_leak(images[:4], images[4:])
    frame = report.to_frame()
    assert frame["train_row"].tolist() == [2, 5, 1] and set(frame["kind"]) == {"identical"}


def test_near_duplicates_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 6)), rng.normal(size=(60, 4)) + 3
    far = rng.choice(60, 30, replace=False)
    a[far[:10]] = a[far[10:20]] + 0.05 * rng.normal(size=(10, 6))  # alike for both experts
    b[far[:10]] = b[far[10:20]] + 0.05 * rng.normal(size=(10, 4))
    a[far[20:25]] = a[far[25:]] + 0.01  # for one expert alone: not near
    a[3], b[7] = np.nan, np.nan
    X = features(a, b)
    train, test = np.arange(0, 60, 2), np.arange(1, 60, 2)
    report = check_leak(X[train], X[test], near=0.9)
    blocks = [np.array(block.embeddings, dtype=float) for block in X.blocks]
    means = [np.nanmean(E[train], axis=0) for E in blocks]
    for row, i in enumerate(test):
        best, where = -1.0, -1
        for column, j in enumerate(train):
            cosines = []
            for E, mean in zip(blocks, means, strict=True):
                u, v = E[i] - mean, E[j] - mean
                if np.isfinite(u).all() and np.isfinite(v).all():
                    cosines.append(u @ v / np.sqrt((u @ u) * (v @ v)))
            if cosines and min(cosines) > best:
                best, where = min(cosines), column
        assert report.similarity[row] == pytest.approx(best, abs=1e-9)
        assert report.found["near"][row] == (where if best >= 0.9 else -1)
    assert 0 < (report.found["near"] >= 0).sum() < 20


def test_equal_embeddings_are_identical_and_not_near_as_well():
    E = np.random.default_rng(0).normal(size=(30, 5))
    X = features(np.concatenate([E, E[[4, 9]]]))
    report = check_leak(X[:20], X[[25, 30, 31]])
    assert report.found["identical"].tolist() == [-1, 4, 9]
    assert report.counts()["near"] == 0


def test_blocks_of_rows_do_not_change_what_is_found(monkeypatch):
    E = np.random.default_rng(0).normal(size=(50, 3))
    X = features(E)
    whole = check_leak(X[:30], X[30:], near=0.9)
    monkeypatch.setattr("skmoecbm._leaks._CHUNK_PAIRS", 100)
    parts = check_leak(X[:30], X[30:], near=0.9)
    np.testing.assert_array_equal(whole.found["near"], parts.found["near"])
    np.testing.assert_allclose(whole.similarity, parts.similarity)


def test_groups_are_shared_where_both_sides_name_them():
    report = find_leaks(None, None, ["p1", "p2", "p1"], ["p3", "p1", "p2"])
    assert report.found["group"].tolist() == [-1, 0, 1]
    assert report.to_frame()["group"].tolist() == ["p1", "p2"]
    assert "2 of 3 test rows" in repr(report)


def test_groups_of_another_kind_are_not_told_apart_in_silence():
    with pytest.raises(InputError, match=r"text on one side .* 7, test rows '7'"):
        find_leaks(None, None, [7, 8], ["7", "9"])
    assert find_leaks(None, None, np.array([7, 8]), [9, 7.0]).counts() == {"group": 1}


def test_lesions_of_the_community_split_of_ham10000_are_in_both_parts(data_dir):
    table = pd.read_csv(data_dir / "ham10000" / "metadata.csv")
    train, test = (table[table["split_community"] == part] for part in ("train", "test"))
    report = find_leaks(None, None, train["lesion_id"], test["lesion_id"])
    shared = test["lesion_id"].isin(set(train["lesion_id"]))
    np.testing.assert_array_equal(report.leaking, shared)
    assert report.counts()["group"] == 336 and len(test) == 859
    kept = table["split_lesion"]
    clean = [table[kept == part]["lesion_id"] for part in ("train", "val")]
    assert not find_leaks(None, None, *clean)


def test_photographs_are_found_again_after_compression_and_resizing(data_dir):
    paths = sorted((data_dir / "ham10000").rglob("*.jpg"))[:60]
    images = [Image.open(path).convert("RGB") for path in paths]

    def compressed(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    changed = [compressed(image) for image in images[:6]]
    changed += [image.resize((100, 75)) for image in images[6:12]]
    bank, experts = load_concepts("lesions"), ("demo-general", "demo-structures")
    union = ExpertUnion([(name, ConceptEncoder(name, bank)) for name in experts]).fit(images)
    names = [path.stem for path in paths]
    report = check_leak(union.transform(images[:40]), union.transform([*changed, *images[40:]]))
    found = report.found["near"][:12]
    assert (found >= 0).sum() >= 9  # with 40 rows their mean is close to them, and angles are wide
    np.testing.assert_array_equal(found[found >= 0], np.flatnonzero(found >= 0))
    assert (report.found["identical"] < 0).all()
    lesions = pd.read_csv(data_dir / "ham10000" / "metadata.csv").set_index("image_id")["lesion_id"]
    for row in np.flatnonzero(report.found["near"][12:] >= 0):
        assert lesions[names[40 + row]] == lesions[names[report.found["near"][12 + row]]]


def test_what_cannot_be_compared_is_one_sentence():
    X = features(np.eye(4, 3) + 0.1)
    with pytest.raises(InputError, match="images with images or features with features"):
        check_leak(X, list(make_lesions(2, random_state=0).images))
    with pytest.raises(InputError, match="for neither"):
        check_leak(X[:2], X[2:], train_groups=[1, 2])
    with pytest.raises(InputError, match="'near' parameter of check_leak"):
        check_leak(X[:2], X[2:], near=0)


def test_what_cannot_be_looked_at_is_not_called_free_of_leaks():
    similarities = ExpertFeatures.from_similarities({"a": (np.eye(4), list("pqrs"))})
    with pytest.raises(InputError, match="nothing to compare"):
        check_leak(similarities, similarities)
    found = check_leak(similarities, similarities, train_groups=range(4), test_groups=range(4))
    assert found.leaking.all()
    with pytest.raises(InputError, match="0 training and 1 test rows"):
        check_leak([], ["a.png"])


def data_with_splits():
    images = make_lesions(8, random_state=0).images
    images[6] = images[1]
    return image_bunch(
        name="drawings",
        images=images,
        target=["x"] * 8,
        target_names=["x"],
        groups=list("aabbccdd"),
        splits={
            "group": {"train": [0, 1, 2, 3], "test": [4, 5, 6, 7]},
            "old": {"train": [0, 2, 4], "val": [1, 6]},
        },
        descr="",
    )


def test_a_split_is_given_in_three_ways():
    data = data_with_splits()
    train, test = np.arange(4), np.arange(4, 8)
    reports = [
        check_leak(data),
        check_leak(data, split="group"),
        check_leak(data.images, data.groups, {"train": train, "test": test}),
        check_leak(list(data.images), list(data.groups), (train.tolist(), test)),
        check_leak(data.part("train"), data.part("test")),
        check_leak(
            data.images[:4], data.images[4:], train_groups=list("aabb"), test_groups=list("ccdd")
        ),
    ]
    for report in reports:
        assert report.found["group"].tolist() == [-1] * 4
        assert report.found["identical"].tolist() == [-1, -1, 1, -1]
    # without groups, none are looked for
    assert check_leak(data.images, None, (train, test)).looked_for == ("identical",)


def test_a_split_is_looked_at_without_its_warning():
    data = data_with_splits()
    report = check_leak(data, split="old")  # of train and val, since it has no test part
    assert report.found["group"].tolist() == [0, -1]
    turned = check_leak(data, split="old", parts=("val", "train"))
    assert turned.found["group"].tolist() == [0, -1, -1]
    with pytest.warns(SkmoecbmWarning, match="divides images"):
        data.part("val", "old")


def test_features_of_a_split_show_what_is_near():
    E = np.random.default_rng(0).normal(size=(30, 5))
    X = features(np.concatenate([E, E[[4, 9]]]))
    groups = np.arange(32) // 2
    report = check_leak(X, groups, (np.arange(20), [25, 30, 31]))
    assert report.found["identical"].tolist() == [-1, 4, 9]
    assert report.counts()["group"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["a.png"],), r"needs test rows as well: check_leak\(train, test\)"),
        ((list("abc"), None, "group"), "must be a dict of rows by part, a pair"),
        ((list("abc"), list("ab"), ([0], [1])), "3 images and 2 groups"),
        ((list("abc"), None, ([0], [3])), "part 'test' of the split has row 3, but there are 3"),
        ((list("abc"), None, {"train": [0]}), r"has no part 'test'; it has 'train'\. Name two"),
        ((list("abc"), None, ([True, False], [1])), "np.flatnonzero makes rows of a mask"),
    ],
)
def test_a_split_that_does_not_fit_is_one_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        check_leak(*arguments)


def test_a_data_set_without_the_split_says_which_it_has():
    with pytest.raises(InputError, match="no split 'new'; there is 'group', 'old'"):
        check_leak(data_with_splits(), split="new")
    with pytest.raises(InputError, match="takes the groups of all rows as its second argument"):
        check_leak(data_with_splits(), train_groups=list("abcd"))
