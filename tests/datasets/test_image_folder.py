"""Images of one's own: folders, tables, what is missing."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skmoecbm import ConceptBottleneckClassifier, ConceptEncoder, load_concepts, save
from skmoecbm.datasets import load_image_folder
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.datasets.local_trees import image, xlsx

pytest.importorskip("pydicom")


def films(root, n=24):
    """Files of 12 patients in folders that say nothing; return what a table says of them."""
    rows = []
    for k in range(n):
        path = f"ward/{k % 2}/film{k:02d}.{('jpg', 'dcm')[k % 2]}"
        image(root / path, k)
        rows.append((path, ("nevus", "melanoma", "other")[k % 3], f"P{k // 2}", k % 2, k % 5 == 0))
    return pd.DataFrame(rows, columns=["path", "label", "patient", "edema", "mass"])


# A folder for each class --------------------------------------------------------------------------


def test_folders_are_classes_and_parts(tmp_path):
    for k in range(12):
        image(tmp_path / "a" / ("b" if k % 2 else "c") / "deeper" / f"{k}.png")
    with pytest.raises(InputError, match=r"All images in .* are in the folder 'a'"):
        load_image_folder(tmp_path)
    data = load_image_folder(tmp_path / "a")
    assert data.target_names == ["b", "c"] and data.task == "binary-class"
    assert data.groups is None and len(data.images) == 12
    for path, label in zip(data.images, data.target, strict=True):
        assert f"/{label}/deeper/" in path
    with pytest.warns(SkmoecbmWarning, match="not known which of these images are of one patient"):
        parts = data.splits["random"]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(12))


def test_links_and_folders_of_machines_are_no_images_of_their_own(tmp_path):
    for name in "ab":
        for k in range(3):
            image(tmp_path / name / f"{k}.png")
            image(tmp_path / "__MACOSX" / name / f"{k}.png")
            image(tmp_path / ".ipynb_checkpoints" / f"{k}.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b", target_is_directory=True)
    image(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "9.png")
    (tmp_path / "c").symlink_to(f"{tmp_path}-elsewhere", target_is_directory=True)
    data = load_image_folder(tmp_path)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in data.images] == [
        *(f"{name}/{k}.png" for name in "ab" for k in range(3)),
        "c/9.png",
    ]
    assert data.target.tolist() == [*"aaabbbc"]


def test_folders_of_parts_are_the_split(tmp_path):
    for part, n in (("train", 6), ("val", 3), ("test", 4)):
        for k in range(n):
            image(tmp_path / part / ("x" if k % 2 else "y") / f"{part}{k}.jpg")
    data = load_image_folder(tmp_path)
    assert data.splits.default == "folders" and data.target_names == ["x", "y"]
    assert {part: len(data.part(part).images) for part in ("train", "val", "test")} == {
        "train": 6,
        "val": 3,
        "test": 4,
    }


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test", "control"):
        for k in range(3):
            image(tmp_path / name / f"{name}{k}.jpg")
    data = load_image_folder(tmp_path)
    assert data.target_names == ["control", "test"]
    assert data.splits.sizes() == {"all": {"train": 6}}  # too few to divide


def test_groups_of_folders_are_found_by_an_expression(tmp_path):
    for k in range(40):
        image(tmp_path / ("x" if k % 3 else "y") / f"p{k // 2:02d}_{k}.jpg")
    data = load_image_folder(tmp_path, groups=r"(p\d+)_")
    assert len(set(data.groups)) == 20
    parts = [set(data.part(part).groups) for part in ("train", "val", "test")]
    assert data.splits.default == "group" and sum(map(len, parts)) == 20
    with pytest.raises(
        InputError, match=r"not found in the paths of 40 images; the first is '[xy]"
    ):
        load_image_folder(tmp_path, groups=r"q\d+")
    with pytest.raises(InputError, match=r"regular expression for paths. Got '\['"):
        load_image_folder(tmp_path, groups="[")


def test_folders_without_classes_are_told(tmp_path):
    with pytest.raises(InputError, match="must lie in a folder for each class, but there are none"):
        load_image_folder(tmp_path)
    image(tmp_path / "lost.jpg")
    image(tmp_path / "a" / "b.jpg")
    with pytest.raises(InputError, match=r"1 image lies in it directly, the first 'lost.jpg'"):
        load_image_folder(tmp_path)
    with pytest.raises(InputError, match="name columns of a table"):
        load_image_folder(tmp_path, target="dx")


def test_files_without_an_ending_are_told(tmp_path):
    for k in range(3):
        image(tmp_path / "a" / f"{k}.dcm", k)
        (tmp_path / "a" / f"{k}.dcm").rename(tmp_path / "a" / f"IM{k}")
    (tmp_path / "readme.txt").touch()
    told = r"there are none\. Give .* 3 files are left out, since no file of that folder has"
    with pytest.raises(InputError, match=told + r".*first is 'a/IM0'\. Rename DICOM files"):
        load_image_folder(tmp_path)
    for k in range(3):
        image(tmp_path / ("bc"[k % 2]) / f"{k}.png", k)
    (tmp_path / "b" / "notes").touch()  # beside an image: no folder is lost
    with pytest.warns(SkmoecbmWarning, match="^3 files are left out") as warned:
        data = load_image_folder(tmp_path)
    assert data.target_names == ["b", "c"]
    assert len(warned) == 1 and warned[0].filename == __file__
    named = pd.DataFrame({"path": ["a/IM0", "b/0.png"], "label": ["x", "y"]})
    assert load_image_folder(tmp_path, named).images[0].endswith("a/IM0")
    named["path"] = ["IM0", "0"]
    told = "1 of the 2 images that the table of your images names is not in .*'IM0'.* with the endi"
    with pytest.raises(InputError, match=told):
        load_image_folder(tmp_path, named)


# A table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frame", "csv", "semicolons", "tabs", "xlsx"])
def test_tables_of_every_kind_say_the_same(kind, tmp_path):
    frame = films(tmp_path)
    labels = frame
    separator = {"csv": ",", "semicolons": ";", "tabs": "\t"}.get(kind)
    if separator:
        labels = tmp_path / "labels.csv"
        frame.to_csv(labels, sep=separator, index=False)
    elif kind == "xlsx":
        labels = tmp_path / "labels.xlsx"
        body = frame.astype({"edema": object, "mass": object}).to_numpy().tolist()
        xlsx(labels, [list(frame.columns), *body])
    data = load_image_folder(tmp_path, labels, groups="patient")
    assert data.target.tolist() == frame["label"].tolist()
    assert data.target_names == ["melanoma", "nevus", "other"] and data.task == "multi-class"
    assert data.groups.tolist() == frame["patient"].tolist()
    assert [path.split("ward")[1] for path in data.images] == [
        path.split("ward")[1] for path in frame["path"]
    ]
    assert list(data.metadata.columns) == list(frame.columns)
    parts = [set(data.part(part).groups) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == 12


def test_images_are_found_by_name_and_text_stays_text(tmp_path):
    for k in range(12):
        image(tmp_path / "deep" / f"{k:03d}.png")
    labels = tmp_path / "table.csv"
    rows = [f"{k:03d},{'07' if k % 2 else 'None'}" for k in range(12)]
    labels.write_text("\n".join(["file,dx", *rows]))
    data = load_image_folder(tmp_path, labels)
    assert data.images[3].endswith("deep/003.png")
    assert data.target_names == ["07", "None"]
    scans = [f"deep\\{k:03d}.png" for k in range(12)]
    other = pd.DataFrame({"scan": scans, "who": ["a", "b"] * 6})
    data = load_image_folder(tmp_path, other, image="scan", target="who")
    assert data.images[11].endswith("deep/011.png") and data.target[11] == "b"
    absolute = pd.DataFrame({"path": data.images, "label": ["a", "b"] * 6})
    assert load_image_folder(tmp_path, absolute).images.tolist() == data.images.tolist()


def test_an_image_of_another_folder_is_not_taken_for_one_that_is_missing(tmp_path):
    for place in ("a/1.png", "b/2.png"):
        image(tmp_path / place)
    frame = pd.DataFrame({"path": ["b/1.png", "a/1.png", "b/2.png"], "label": list("xyx")})
    with pytest.raises(InputError, match=r"first is 'b/1\.png'"):
        load_image_folder(tmp_path, frame)
    frame["path"] = ["1.png", "1.png", "2.png"]  # two readers of one image
    assert [one[-7:] for one in load_image_folder(tmp_path, frame).images] == [
        "a/1.png",
        "a/1.png",
        "b/2.png",
    ]


def test_images_of_one_name_and_size_in_two_folders_are_not_mixed_up(tmp_path):
    for k, place in enumerate(("a/1.bmp", "b/1.bmp")):
        image(tmp_path / place, k)
    frame = pd.DataFrame({"image": ["1", "2"], "label": ["x", "y"]})
    with pytest.raises(InputError, match=r"'1' may be .*a/1.bmp' or .*b/1.bmp', which differ"):
        load_image_folder(tmp_path, frame, on_missing="ignore")


@pytest.mark.parametrize(
    ("column", "word"),
    [
        ("patient", "patient"),
        ("Patient ID", "patient"),
        ("PatientID", "patient"),
        ("lesion_id", "lesion"),
        ("Subject No.", "subject"),
    ],
)
def test_a_column_of_patients_that_is_not_used_warns(column, word, tmp_path):
    frame = films(tmp_path).rename(columns={"patient": column})
    told = rf"column '{re.escape(column)}', .* one {word} may land on both .* Pass groups='"
    with pytest.warns(SkmoecbmWarning, match=told) as warned:
        load_image_folder(tmp_path, frame)
    assert len(warned) == 1 and warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image_folder(tmp_path, frame, groups=column)
        frame[column] = range(24)  # everybody has one image
        load_image_folder(tmp_path, frame)
        load_image_folder(tmp_path, frame.assign(impatient="p"))
        load_image_folder(tmp_path, frame.assign(lesion=frame["label"]), target="lesion")
    both = frame.assign(lesion=[k // 2 for k in range(24)], patient=[k // 4 for k in range(24)])
    with pytest.warns(SkmoecbmWarning, match="Pass groups='patient'"):
        load_image_folder(tmp_path, both)


def test_several_columns_are_labels_of_which_one_may_be_unknown(tmp_path):
    frame = films(tmp_path)
    data = load_image_folder(tmp_path, frame, target=["edema", "mass"], groups="patient")
    assert data.task == "multi-label" and data.metric == "macro_auroc"
    assert data.target.dtypes.tolist() == [np.int64, np.int64]
    np.testing.assert_array_equal(data.target, frame[["edema", "mass"]].astype(int))
    frame["edema"] = frame["edema"].astype(object)
    frame.loc[[0, 5], "edema"] = None
    data = load_image_folder(tmp_path, frame, target=["edema", "mass"], groups="patient")
    assert data.target["edema"].isna().sum() == 2
    rows = np.concatenate(list(data.splits["group"].values()))
    assert sorted(rows) == sorted(set(range(24)) - {0, 5})
    frame["mass"] = frame["mass"].astype(object)
    frame.loc[3, "mass"] = "maybe"
    with pytest.raises(InputError, match=r"'ward/1/film03.dcm' has 'maybe' in 'mass'"):
        load_image_folder(tmp_path, frame, target=["edema", "mass"])


def test_the_split_of_a_column_is_the_default(tmp_path):
    frame = films(tmp_path)
    frame["fold"] = ["Train"] * 16 + ["valid"] * 4 + ["test"] * 4
    data = load_image_folder(tmp_path, frame, split="fold", groups="patient")
    assert data.splits.default == "table" and "group" in data.splits
    assert data.part("val").rows.tolist() == [16, 17, 18, 19]
    frame["fold"] = ["A", "B"] * 12
    with pytest.raises(InputError, match="names no part 'train', 'val', 'test': it holds 'A', 'B'"):
        load_image_folder(tmp_path, frame, split="fold", groups="patient")
    frame["fold"] = ["train"] * 20 + ["tset"] * 3 + [""]
    with pytest.raises(InputError, match=r"3 rows are in no part .*'fold', which says 'tset'"):
        load_image_folder(tmp_path, frame, split="fold", groups="patient")
    shared = films(tmp_path).assign(fold=["train", "test"] * 12)
    data = load_image_folder(tmp_path, shared, split="fold", groups="patient")
    with pytest.warns(SkmoecbmWarning, match="divides images, not groups: 12 of its 12"):
        data.part("test")


def test_what_is_missing_is_told_with_the_count_and_the_first(tmp_path):
    frame = films(tmp_path)
    for k in (4, 6):
        (tmp_path / f"ward/0/film{k:02d}.jpg").unlink()
    told = "2 of the 24 images .* are not in .*; the first is 'ward/0/film04.jpg'"
    with pytest.raises(InputError, match=told):
        load_image_folder(tmp_path, frame)
    with pytest.warns(SkmoecbmWarning, match=told):
        data = load_image_folder(tmp_path, frame, groups="patient", on_missing="warn")
    assert len(data.images) == 22 and data.groups.tolist() == [
        one for k, one in enumerate(frame["patient"]) if k not in (4, 6)
    ]


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (
            {"label": [None] * 3 + ["x"] * 21},
            {},
            "3 rows have no label; the first is 'ward/0/film00",
        ),
        ({"path": [""] * 2 + ["x"] * 22}, {}, "2 rows have no image; the first is row 1"),
        (
            {"patient": ["p"] * 23 + [""]},
            {"groups": "patient"},
            "1 row has no group; the first is",
        ),
        (
            {},
            {"target": "dx"},
            "no column 'dx', which target= names. Its columns are 'path', 'label'",
        ),
        ({}, {"image": "scan"}, "no column 'scan', which image= names"),
        ({}, {"groups": "ward"}, "no column 'ward', which groups= names"),
    ],
)
def test_mistakes_in_tables_are_told(change, options, told, tmp_path):
    frame = films(tmp_path).assign(**change)
    with pytest.raises(InputError, match=told):
        load_image_folder(tmp_path, frame, **options)


def test_other_mistakes_are_told(tmp_path):
    frame = films(tmp_path)
    with pytest.raises(InputError, match="no column that looks like the images"):
        load_image_folder(tmp_path, frame.rename(columns={"path": "scan"}))
    with pytest.raises(InputError, match="no column that looks like the labels"):
        load_image_folder(tmp_path, frame.rename(columns={"label": "word"}))
    with pytest.raises(InputError, match=r"several columns 'label'"):
        load_image_folder(tmp_path, frame.rename(columns={"patient": "label"}))
    with pytest.raises(InputError, match="has no rows"):
        load_image_folder(tmp_path, frame[:0])
    with pytest.raises(InputError, match=r"must be a path or a DataFrame. Got list"):
        load_image_folder(tmp_path, ["a", "b"])
    with pytest.raises(
        InputError, match=r"'t.xls' cannot be read. Save the table as .xlsx or .csv"
    ):
        load_image_folder(tmp_path, tmp_path / "t.xls")
    for table in ("t.csv", "t.xlsx"):
        told = rf"^The table '.*{table}' does not exist\. Check the path\.$"
        with pytest.raises(InputError, match=told):
            load_image_folder(tmp_path, tmp_path / table)
    told = "^The folder of your images, '.*none', does not exist"
    with pytest.raises(InputError, match=told):
        load_image_folder(tmp_path / "none", frame)


# What is saved ------------------------------------------------------------------------------------


def test_no_group_reaches_a_saved_model(tmp_path):
    frame = films(tmp_path, 36)
    frame["patient"] = [f"MRN-{7_000_000 + k // 2}" for k in range(36)]
    data = load_image_folder(tmp_path, frame, groups="patient")
    train = data.part("train")
    encoder = ConceptEncoder("demo-structures", load_concepts("lesions"), cache_dir=None)
    from sklearn.pipeline import make_pipeline

    head = ConceptBottleneckClassifier(prior=None, cv=2, random_state=0)
    model = make_pipeline(encoder, head)
    model.fit(train.images, train.target, conceptbottleneckclassifier__groups=train.groups)
    save(model, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        content = path.read_bytes()
        assert not any(word in content for word in (b"MRN", b"ward", b"film0", b".dcm", b"70000"))
