"""HAM10000 in the layouts people have, from a server, and for real."""

import hashlib
import io
import pickle
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from skmoecbm import load_concepts
from skmoecbm._leaks import find_leaks
from skmoecbm.datasets import _ham10000_files, check_leak, fetch_ham10000
from skmoecbm.datasets._ham10000_tables import CLASSES
from skmoecbm.exceptions import DownloadError, InputError, SkmoecbmWarning
from tests.datasets import trees
from tests.datasets.file_server import served

ROWS = trees.lesions()


def test_the_names_are_those_of_the_concept_bank():
    bank = {one.key: one.name for one in load_concepts("ham10000").classes}
    assert bank == CLASSES


@pytest.mark.parametrize("layout", [trees.kaggle_ham, trees.dataverse_ham, trees.isic_ham])
def test_every_layout_gives_the_same_rows(tmp_path, layout):
    layout(tmp_path, ROWS)
    data = fetch_ham10000(tmp_path)
    assert [path.rpartition("/")[2] for path in data.images] == [f"{r[0]}.jpg" for r in ROWS]
    assert data.metadata["dx"].tolist() == [row[2] for row in ROWS]
    assert data.target.tolist() == [CLASSES[row[2]] for row in ROWS]
    assert data.groups.tolist() == [row[1] for row in ROWS]
    assert len(data.target_names) == 7 and list(data.splits) == ["group"]
    train, val, test = (set(data.part(part).groups) for part in ("train", "val", "test"))
    assert not (train & test or train & val or val & test)
    assert not check_leak(data).counts()["group"]
    X, y = fetch_ham10000(str(tmp_path), return_X_y=True)
    assert X.tolist() == data.images.tolist() and y.tolist() == data.target.tolist()


def test_a_community_split_is_offered_and_warns(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    names = [row[0] for row in ROWS]
    given = {"train": names[::2], "val": names[1:20:2], "test": names[21::2]}
    for part, images in given.items():
        # as LaBo's files are: pickles of class -> names
        content = pickle.dumps({"one": images[:3], "two": images[3:]})
        (tmp_path / f"class2images_{part}.p").write_bytes(content)
    data = fetch_ham10000(tmp_path)
    assert data.splits.default == "group"
    with pytest.warns(SkmoecbmWarning, match=r"not lesions: 25 of its 25 test images"):
        test = data.part("test", "community")
    assert test.metadata["image_id"].tolist() == given["test"]
    by_name = fetch_ham10000(tmp_path, split="community")
    with pytest.warns(SkmoecbmWarning):
        assert by_name.part("val").metadata["image_id"].tolist() == given["val"]
    report = check_leak(data, split="community")
    assert report.counts()["group"] == 25


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ISIC_0000001')",))


def test_nothing_in_the_files_of_the_split_is_run(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    for part, content in (("train", Bomb()), ("val", ["ISIC_0000002"]), ("test", ["none"])):
        (tmp_path / f"class2images_{part}.p").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"class2images_test.p' is not .* it names no image"):
        fetch_ham10000(tmp_path)
    (tmp_path / "class2images_test.p").write_bytes(pickle.dumps(["ISIC_0000002"]))
    with pytest.raises(InputError, match="it names images of another part"):
        fetch_ham10000(tmp_path)


def test_columns_of_the_table_are_splits(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    path = tmp_path / "HAM10000_metadata.csv"
    table = pd.read_csv(path)
    table["split_mine"] = np.where(np.arange(70) < 60, "train", "test")
    table["split_empty"] = "train"
    table["split_odd"] = ["train", "test", "tset", None, "val"] * 14
    table.to_csv(path, index=False)
    data = fetch_ham10000(tmp_path, split="mine")
    assert data.part("test").rows.tolist() == list(range(60, 70))
    assert list(data.splits) == ["group", "mine", "odd"]  # one part is no split
    with pytest.warns(SkmoecbmWarning, match=r"14 rows .*'split_odd', which says 'tset'"):
        data.splits["odd"]
    with pytest.raises(InputError, match="no split 'yours'; choose one of 'group', 'mine', 'odd'"):
        fetch_ham10000(tmp_path, split="yours")


@pytest.mark.parametrize("named", [True, False])
def test_the_test_part_of_isic_is_added_if_asked(tmp_path, named):
    trees.isic_ham(tmp_path, ROWS)
    if named:  # as the Harvard Dataverse has it
        path = next(tmp_path.rglob("ISIC2018_Task3_Test_GroundTruth.csv"))
        trees.ham_table(path, [("ISIC_0034524", "HAM_0000000", "nv")])
    assert len(fetch_ham10000(tmp_path).images) == 70
    data = fetch_ham10000(tmp_path, split="official")
    assert len(data.images) == 71 and list(data.splits) == ["group", "official"]
    group = data.splits["group"]
    assert sorted(np.concatenate(list(group.values())).tolist()) == list(range(70))
    if named:
        with pytest.warns(SkmoecbmWarning, match="1 of its 1 test images"):
            test = data.part("test")
    else:
        test = data.part("test")
        assert len(data.part("train").images) == 70
    assert test.images[0].endswith("ISIC2018_Task3_Test_Input/ISIC_0034524.jpg")
    assert test.target.tolist() == ["melanocytic nevus"]
    assert test.groups[0] == ("HAM_0000000" if named else "ISIC_0034524")
    for path in tmp_path.rglob("ISIC2018_Task3_Test_GroundTruth.csv"):
        path.unlink()
    with pytest.raises(InputError, match=r"'official' tests on the 1,512 .* put them into the f"):
        fetch_ham10000(tmp_path, split="official")


def test_spellings_of_columns_and_names_do_not_matter(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    path = tmp_path / "HAM10000_metadata.csv"
    table = pd.read_csv(path).rename(columns={"image_id": "Image_ID", "dx": "DX"})
    table["Image_ID"] += ".jpg"
    table.to_csv(path, index=False)
    data = fetch_ham10000(tmp_path)
    assert data.metadata["image_id"].tolist() == [row[0] for row in ROWS]
    table.loc[4, "lesion_id"] = None
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match="does not name the lesion of 'ISIC_0000004'"):
        fetch_ham10000(tmp_path)


def test_a_ground_truth_that_is_damaged_is_one_sentence(tmp_path):
    trees.isic_ham(tmp_path, ROWS)
    path = next(tmp_path.rglob("ISIC2018_Task3_Training_GroundTruth.csv"))
    text = path.read_text()
    path.write_text(text.replace("1.0", "0.0", 1))
    with pytest.raises(InputError, match=r"one 1 in each row\. Row 1, 'ISIC_0000000', has not"):
        fetch_ham10000(tmp_path)
    path.write_text(text + "ISIC_0099999" + ",1.0" + 6 * ",0.0" + "\n")
    with pytest.raises(InputError, match="the lesion of 1 images; the first is 'ISIC_0099999'"):
        fetch_ham10000(tmp_path)


def test_missing_images_are_counted_and_left_out_only_if_asked(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    whole = fetch_ham10000(tmp_path)
    for k in (3, 5, 40):
        for path in tmp_path.rglob(f"{ROWS[k][0]}.jpg"):
            path.unlink()
    with pytest.raises(InputError, match=r"3 of the 70 images .*the first is 'ISIC_0000003'\."):
        fetch_ham10000(tmp_path)
    with pytest.warns(SkmoecbmWarning, match=r"3 of the 70 images .* are left out"):
        data = fetch_ham10000(tmp_path, on_missing="warn")
    assert len(data.images) == 67 and len(data.metadata) == 67
    # who lacks images has the others in the same parts
    for part in ("train", "val", "test"):
        missing = {ROWS[k][0] for k in (3, 5, 40)}
        there = set(whole.part(part).metadata["image_id"]) - missing
        assert set(data.part(part).metadata["image_id"]) == there
    assert len(fetch_ham10000(tmp_path, on_missing="ignore").images) == 67
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match=r"70 of the 70 images .* By hand: get HAM10000_images"):
        fetch_ham10000(tmp_path, on_missing="ignore")


def test_what_is_wrong_with_a_folder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"does not exist\. It should hold the images"):
        fetch_ham10000(tmp_path / "no")
    with pytest.raises(InputError, match="no table with columns image_id, dx and lesion_id"):
        fetch_ham10000(tmp_path)
    trees.isic_ham(tmp_path / "isic", ROWS, lesions_too=False)
    with pytest.raises(InputError, match=r"LesionGroupings.csv\. Without it images of one lesion"):
        fetch_ham10000(tmp_path / "isic")
    trees.kaggle_ham(tmp_path / "a", [*ROWS, ("ISIC_0000099", "HAM_1", "wart")])
    with pytest.raises(
        InputError, match=r"column 'dx' .* 1 row has .*; the first is 'ISIC_0000099' w"
    ):
        fetch_ham10000(tmp_path / "a")
    trees.kaggle_ham(tmp_path / "b", [*ROWS, ROWS[0]])
    with pytest.raises(InputError, match="names the image 'ISIC_0000000' twice"):
        fetch_ham10000(tmp_path / "b")
    trees.kaggle_ham(tmp_path / "c", ROWS)
    trees.image(tmp_path / "c" / "other" / "ISIC_0000000.png")
    with pytest.raises(InputError, match="Two different images are called 'ISIC_0000000'"):
        fetch_ham10000(tmp_path / "c")
    with pytest.raises(InputError, match="'on_missing' parameter"):
        fetch_ham10000(tmp_path / "c", on_missing="drop")


def test_other_tables_beside_are_not_taken_for_it(tmp_path):
    trees.kaggle_ham(tmp_path, ROWS)
    trees.ham_table(tmp_path / "concepts.csv", ROWS[:12])
    assert len(fetch_ham10000(tmp_path).images) == 70
    (tmp_path / "HAM10000_metadata.csv").rename(tmp_path / "zzz.csv")
    with pytest.raises(InputError, match=r"Several tables .* or call it 'HAM10000_metadata.csv'"):
        fetch_ham10000(tmp_path)


@pytest.fixture
def dataverse(tmp_path, monkeypatch):
    """A server of the data set, and an empty folder for downloads."""
    source = tmp_path / "source"
    trees.kaggle_ham(source, ROWS)
    with served() as server:
        monkeypatch.setattr(_ham10000_files, "SERVER", server.address)
        monkeypatch.setattr(_ham10000_files, "SPLITS_URL", server.address + "/splits/")
        files = server.dataverse[_ham10000_files.DOI] = {}

        def add(label, content, **more):
            server.files[f"/api/access/datafile/{len(files)}"] = content
            md5 = hashlib.md5(content).hexdigest()
            files[label] = {"filename": label, "filesize": len(content), "md5": md5, **more}

        for part in ("1", "2"):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for path in sorted((source / f"HAM10000_images_part_{part}").iterdir()):
                    archive.write(path, path.name)
            add(f"HAM10000_images_part_{part}.zip", packed.getvalue())
        table = (source / "HAM10000_metadata.csv").read_bytes()
        trees.image(source / "test" / "ISIC_0034524.jpg")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(source / "test" / "ISIC_0034524.jpg", "ISIC_0034524.jpg")
        add("ISIC2018_Task3_Test_Images.zip", packed.getvalue())
        (source / "test" / "ISIC_0034524.jpg").unlink()
        truth = b"lesion_id,image_id,dx\nHAM_9,ISIC_0034524,mel\n"
        original = {"originalFileName": "ISIC2018_Task3_Test_GroundTruth.csv"}
        original["originalFileSize"] = len(truth)
        add("ISIC2018_Task3_Test_GroundTruth.tab", truth, originalFileFormat="x", **original)
        original = {"originalFileName": "HAM10000_metadata.csv", "originalFileSize": len(table)}
        add("HAM10000_metadata.tab", table, originalFileFormat="text/csv", **original)
        names = [row[0] for row in ROWS]
        for part, images in {"train": names[:50], "val": names[50:55], "test": names[55:]}.items():
            server.files[f"/splits/class2images_{part}.p"] = pickle.dumps({"x": images})
        yield server


def test_it_is_downloaded_once(dataverse, tmp_path):
    home = tmp_path / "home"
    with pytest.raises(DownloadError, match=r"download_if_missing is False. .* By hand: get HAM"):
        fetch_ham10000(data_home=home, download_if_missing=False)
    assert dataverse.requests == [] and not home.exists()
    data = fetch_ham10000(data_home=home, verbose=False)
    assert len(data.images) == 70 and all(str(home) in path for path in data.images)
    n_requests = len(dataverse.requests)
    assert n_requests == 4
    again = fetch_ham10000(data_home=home, download_if_missing=False)
    assert len(dataverse.requests) == n_requests
    assert again.images.tolist() == data.images.tolist()
    assert not list((home / "ham10000").glob("*.zip"))
    official = fetch_ham10000(data_home=home, split="official", verbose=False)
    assert official.part("test").target.tolist() == ["melanoma"]
    assert len(dataverse.requests) == n_requests + 3


def test_what_is_missing_after_a_failure_is_all_that_is_fetched(dataverse, tmp_path):
    archive = "/api/access/datafile/1"
    dataverse.faults[archive] = [{"status": 403}]
    with pytest.raises(DownloadError, match=r"part_2.zip' from .*refuses it .403.\. By hand: get"):
        fetch_ham10000(data_home=tmp_path / "home", verbose=False)
    before = len(dataverse.requests)
    assert len(fetch_ham10000(data_home=tmp_path / "home", verbose=False).images) == 70
    assert [path for path, _ in dataverse.requests[before:]][1:] == [archive]


def test_an_archive_that_was_not_unpacked_any_more_is_not_fetched_again(dataverse, tmp_path):
    home = tmp_path / "home"
    fetch_ham10000(data_home=home, verbose=False)
    shutil.rmtree(home / "ham10000" / "HAM10000_images_part_2")
    packed = dataverse.files["/api/access/datafile/1"]
    (home / "ham10000" / "HAM10000_images_part_2.zip").write_bytes(packed)
    before = len(dataverse.requests)
    assert len(fetch_ham10000(data_home=home, verbose=False).images) == 70
    assert len(dataverse.requests) == before + 1  # what there is was asked, nothing fetched


def test_the_community_split_is_downloaded_when_it_is_asked_for(dataverse, tmp_path, monkeypatch):
    monkeypatch.setenv("SKMOECBM_DATA", str(tmp_path / "home"))
    data = fetch_ham10000(tmp_path / "source")
    with pytest.raises(InputError, match=r"no split 'community'.* split='community'\) gets it"):
        data.part("test", "community")
    assert dataverse.requests == []
    with pytest.raises(DownloadError, match=r"The community split .* By hand: put class2images"):
        fetch_ham10000(tmp_path / "source", split="community", download_if_missing=False)
    data = fetch_ham10000(tmp_path / "source", split="community", verbose=False)
    assert data.part("test").metadata["image_id"].tolist() == [row[0] for row in ROWS[55:]]


def test_the_real_data_set(data_dir):
    data = fetch_ham10000(data_dir / "ham10000")
    table = pd.read_csv(data_dir / "ham10000" / "metadata.csv")
    assert len(data.images) == len(table) == 8538
    assert data.metadata["image_id"].tolist() == table["image_id"].tolist()
    train, test = data.part("train").groups, data.part("test").groups
    assert not find_leaks(None, None, train, test)
    lesion = data.splits["lesion"]
    assert [len(lesion[part]) for part in ("train", "val")] == [7029, 1509]
    # Of 1,005 test images 859 are here, of which 336 show a lesion of the training images; that is
    # 39 in 100, as 391 of 1,005 are.
    with pytest.warns(SkmoecbmWarning, match="336 of its 859 test images here"):
        community = data.splits["community"]
    shared = (
        data.metadata["lesion_id"]
        .iloc[community["test"]]
        .isin(set(data.metadata["lesion_id"].iloc[community["train"]]))
    )
    assert shared.sum() == 336 and abs(336 / 859 - 391 / 1005) < 0.005
    small = fetch_ham10000(data_dir / "ham10000_fullsize")
    assert len(small.images) == 210 and list(small.splits) == ["group"]
