"""The two editions of the COVID-19 X-rays, as Kaggle's archives unpack."""

import re

import pytest

from skmoecbm import load_concepts
from skmoecbm.datasets import check_leak, fetch_covid_radiography
from skmoecbm.datasets._xlsx import read_xlsx
from skmoecbm.exceptions import DownloadError, InputError, SkmoecbmWarning
from tests.datasets import trees


def test_the_radiography_database(tmp_path):
    trees.radiography(tmp_path / "COVID-19_Radiography_Dataset")
    data = fetch_covid_radiography(tmp_path)
    assert data.edition == "COVID-19 Radiography" and len(data.images) == 120
    assert not any("masks" in path for path in data.images)
    names = [one.name for one in load_concepts("covid_radiography").classes]
    assert data.target_names == names
    for path, target in zip(data.images, data.target, strict=True):
        folder = re.search(r"Dataset/([^/]+)/images", path)[1]
        assert {"COVID": "covid-19", "Lung_Opacity": "lung opacity"}.get(
            folder, folder.lower()
        ) == target
    assert list(data.splits) == ["random"]
    with pytest.warns(SkmoecbmWarning, match="'random' of the COVID-19 X-rays divides images"):
        parts = data.splits["random"]
    assert [len(parts[part]) for part in ("train", "val", "test")] == [84, 12, 24]
    for rows in parts.values():
        assert {list(data.target[rows]).count(name) for name in names} == {len(rows) // 4}


def test_covid_qu_ex(tmp_path):
    trees.qu_ex(tmp_path)
    data = fetch_covid_radiography(str(tmp_path))
    assert data.edition == "COVID-QU-Ex" and len(data.images) == 72
    assert data.target_names == ["covid-19", "non-covid infection", "normal"]
    assert not any("mask" in path or "Infection" in path for path in data.images)
    with pytest.warns(SkmoecbmWarning, match="'official'"):
        val = data.part("val")
    assert len(val.images) == 24 and all("/Val/" in path for path in val.images)
    assert set(val.metadata["folder"]) == {"COVID-19", "Non-COVID", "Normal"}
    X, y = fetch_covid_radiography(tmp_path, return_X_y=True)
    assert X.tolist() == data.images.tolist() and y.tolist() == data.target.tolist()


def test_older_archives_have_no_folders_of_images(tmp_path):
    for k in range(12):
        trees.image(tmp_path / "NORMAL" / f"NORMAL ({k}).png", k)
        trees.image(tmp_path / "COVID-19" / f"COVID-19 ({k}).png", k)
    data = fetch_covid_radiography(tmp_path)
    assert set(data.target) == {"covid-19", "normal"}
    (tmp_path / "NORMAL").rename(tmp_path / "COVID-19" / "NORMAL")  # the inner folder counts
    assert sorted(fetch_covid_radiography(tmp_path).target) == sorted(data.target)


def test_sources_are_read_from_the_tables_that_come_along(tmp_path):
    trees.radiography(tmp_path, 5)
    rows = [["FILE NAME", "FORMAT", "SIZE", "URL"]]
    rows += [[f"COVID-{k}", "PNG", "", f"https://source{k}"] for k in range(1, 5)]
    trees.xlsx(tmp_path / "COVID.metadata.xlsx", rows)
    trees.xlsx(tmp_path / "Normal.metadata.xlsx", [rows[0], ["NORMAL-3", "", "", "https://n"]])
    assert read_xlsx(tmp_path / "COVID.metadata.xlsx")[1] == [
        "COVID-1",
        "PNG",
        "",
        "https://source1",
    ]
    frame = fetch_covid_radiography(tmp_path).metadata
    told = {folder: rows["source"] for folder, rows in frame.groupby("folder")}
    assert told["Lung_Opacity"].isna().all()
    assert told["COVID"].tolist()[:4] == [f"https://source{k}" for k in range(1, 5)]
    assert told["COVID"].isna().sum() == 1
    assert told["Normal"].dropna().tolist() == ["https://n"]
    (tmp_path / "COVID.metadata.xlsx").write_bytes(b"no book")
    with pytest.raises(InputError, match="cannot be read as an Excel file"):
        fetch_covid_radiography(tmp_path)


def test_identical_images_are_found(tmp_path):
    trees.radiography(tmp_path, 10)  # every class has the same ten pictures
    report = check_leak(fetch_covid_radiography(tmp_path))
    assert report.counts()["identical"] == report.n_test


def test_what_is_not_here_is_told_with_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("SKMOECBM_DATA", str(tmp_path / "home"))
    with pytest.raises(DownloadError, match=r"asks for a login, so get it by hand: tawsifurrahman"):
        fetch_covid_radiography()
    trees.radiography(tmp_path / "home" / "covid_radiography" / "COVID-19_Radiography_Dataset", 4)
    assert len(fetch_covid_radiography().images) == 16
    assert len(fetch_covid_radiography(data_home=tmp_path / "home").images) == 16
    with pytest.raises(InputError, match=r"does not exist\. It should hold the folders"):
        fetch_covid_radiography(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in folders of classes"):
        fetch_covid_radiography(tmp_path / "empty")
    trees.qu_ex(tmp_path / "both")
    trees.radiography(tmp_path / "both", 3)
    with pytest.raises(InputError, match="folders of both editions"):
        fetch_covid_radiography(tmp_path / "both")
