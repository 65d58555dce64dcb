"""CheXpert in the layouts that people have."""

import numpy as np
import pytest

from skmoecbm import ConceptEncoder, load_concepts
from skmoecbm._targets import check_groups
from skmoecbm.datasets import load_chexpert
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.datasets.local_trees import CHEXPERT, chexpert, label_cells

pytest.importorskip("pydicom")


def expected(cells, policy):
    unsure = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[policy]
    return [{"1.0": 1.0, "0.0": 0.0, "": 0.0, "-1.0": unsure}[cell] for cell in cells]


@pytest.mark.parametrize("release", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
@pytest.mark.parametrize("inside", [True, False])
def test_both_releases_are_found_from_their_folder_or_the_one_around_it(release, inside, tmp_path):
    folder = chexpert(tmp_path, release)
    data = load_chexpert(folder if inside else tmp_path)
    assert len(data.images) == 12 + 4 and data.name == "chexpert"
    assert data.images[0].endswith("train/patient00001/study1/view1_frontal.jpg")
    assert all(np.isin(data.metadata["part"], ["train", "val"]))
    assert list(data.target.columns) == data.target_names and len(data.target_names) == 14
    assert data.task == "multi-label" and "Irvin" in data.DESCR


def test_the_batches_of_the_new_download_are_found(tmp_path):
    chexpert(tmp_path, "CheXpert-v1.0", batches=True)
    data = load_chexpert(tmp_path)
    assert len(data.images) == 16
    for path, patient in zip(data.images, data.groups, strict=True):
        assert patient in path
    assert "batch 3 (train 2)/patient00001" in data.images[0]


@pytest.mark.parametrize("policy", ["ones", "zeros", "ignore"])
def test_uncertain_labels_follow_the_policy(policy, tmp_path):
    chexpert(tmp_path)
    data = load_chexpert(tmp_path, uncertain=policy)
    wanted = np.array([expected(label_cells(k), policy) for k in range(1, 13)])
    np.testing.assert_array_equal(data.target[:12].to_numpy(), wanted)
    assert data.uncertain == policy
    np.testing.assert_array_equal(
        data.metadata["n_uncertain"][:12], [label_cells(k).count("-1.0") for k in range(1, 13)]
    )
    assert (data.metadata.loc[:11, CHEXPERT] == -1).to_numpy().sum() > 30  # as they are


def test_ignored_labels_leave_films_out_of_the_splits_and_a_classifier_takes_the_rest(tmp_path):
    from skmoecbm import ConceptBottleneckClassifier

    chexpert(tmp_path, n=40)
    labels = ["Edema", "Pneumothorax"]
    data = load_chexpert(tmp_path, uncertain="ignore", labels=labels)
    assert data.target_names == ["pulmonary edema", "pneumothorax"]
    train = data.part("train")
    certain = [k for k in range(1, 41) if "-1.0" not in np.array(label_cells(k))[[5, 9]]]
    assert len(train.images) == len(certain) == 30
    assert data.target.isna().any(axis=None) and not train.target.isna().any(axis=None)
    encoder = ConceptEncoder("demo-structures", load_concepts("lesions"), cache_dir=None)
    features = encoder.fit_transform(train.images)
    head = ConceptBottleneckClassifier(prior=None, cv=2, random_state=0)
    head.fit(features, train.target, groups=check_groups(train.groups, len(train.groups)))
    assert head.classes_.tolist() == data.target_names


def test_a_part_that_only_unsure_labels_left_empty_says_so(tmp_path):
    chexpert(tmp_path)  # of 14 labels every film of the training part has unsure ones
    data = load_chexpert(tmp_path, uncertain="ignore")
    with pytest.warns(SkmoecbmWarning, match=r"no rows here: .* a label that is unsure. Name few"):
        assert len(data.part("train").images) == 0


def test_views_and_labels_are_chosen(tmp_path):
    chexpert(tmp_path)
    both = load_chexpert(tmp_path, view="all")
    assert len(both.images) == 32
    lateral = load_chexpert(tmp_path, view="lateral")
    assert len(lateral.images) == 16 and all("lateral" in path for path in lateral.images)
    pa = load_chexpert(tmp_path, view="PA")
    assert set(pa.metadata["AP/PA"]) == {"PA"}
    assert len(pa.images) + len(load_chexpert(tmp_path, view="AP").images) == 16
    five = load_chexpert(tmp_path, labels="competition")
    assert five.target_names == [
        *("atelectasis", "cardiomegaly", "consolidation", "pulmonary edema", "pleural effusion")
    ]
    by_name = load_chexpert(tmp_path, labels=["Pleural effusion", "fracture"])
    assert by_name.target_names == ["pleural effusion", "fracture"]
    np.testing.assert_array_equal(by_name.target["pleural effusion"], both.target[::2].iloc[:, 10])
    X, y = load_chexpert(tmp_path, labels=["fracture"], return_X_y=True)
    assert list(X) == list(by_name.images) and y.equals(by_name.target[["fracture"]])


def test_splits_are_the_official_one_and_one_by_patient(tmp_path):
    chexpert(tmp_path, test=True)
    data = load_chexpert(tmp_path, view="all")
    assert {part: len(data.part(part).images) for part in ("train", "val", "test")} == {
        "train": 24,
        "val": 8,
        "test": 6,
    }
    assert set(data.part("test").metadata["view"]) == {"frontal", "lateral"}
    parts = data.splits["group"]
    patients = [set(data.groups[rows]) for rows in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 19
    assert load_chexpert(tmp_path, split="group").splits.default == "group"


def test_what_is_missing_is_told_with_the_count_and_the_first(tmp_path):
    folder = chexpert(tmp_path)
    for k in (3, 7):
        (folder / f"train/patient{k:05d}/study1/view1_frontal.jpg").unlink()
    told = "2 of the 16 images .* are not in .*; the first is '.*patient00003/study1/view1_frontal"
    with pytest.raises(InputError, match=told):
        load_chexpert(tmp_path)
    with pytest.warns(SkmoecbmWarning, match=told):
        data = load_chexpert(tmp_path, on_missing="warn")
    assert len(data.images) == 14 and "patient00003" not in data.groups
    assert len(load_chexpert(tmp_path, on_missing="ignore").part("val").images) == 4
    (folder / "valid.csv").unlink()
    with pytest.raises(InputError, match="no split 'official'"):
        load_chexpert(tmp_path, split="official", on_missing="ignore")
    (folder / "train.csv").unlink()
    with pytest.raises(InputError, match=r"neither train.csv nor valid.csv. Get CheXpert at"):
        load_chexpert(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_chexpert(tmp_path / "nowhere")


def test_mistakes_are_told(tmp_path):
    folder = chexpert(tmp_path)
    for options in ({"uncertain": "two"}, {"view": "top"}, {"labels": ["Flu"]}, {"labels": "all"}):
        with pytest.raises(InputError, match=f"'{next(iter(options))}' parameter of load_chexpert"):
            load_chexpert(tmp_path, **options)
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text.replace("1.0", "2.0"))
    with pytest.raises(InputError, match=r"'.*patient00001.*' has .*2.0.* in column"):
        load_chexpert(tmp_path)
    (folder / "train.csv").write_text(text.replace("patient", "person"))
    with pytest.raises(InputError, match="no patient can be found"):
        load_chexpert(tmp_path, on_missing="ignore")
    (folder / "train.csv").write_text(text.replace("Fracture", "Broken"))
    (folder / "valid.csv").unlink()
    with pytest.raises(InputError, match="no column 'Fracture'"):
        load_chexpert(tmp_path)
