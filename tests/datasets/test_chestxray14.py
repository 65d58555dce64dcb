"""NIH ChestX-ray14 in the layouts people have, from a double of the Hub, and for real."""

import io
import zipfile

import huggingface_hub
import numpy as np
import pandas as pd
import pytest

from skmoecbm import load_concepts
from skmoecbm.datasets import _chestxray14, _http, fetch_chestxray14
from skmoecbm.exceptions import DownloadError, InputError, SkmoecbmWarning
from tests.datasets import trees
from tests.datasets.file_server import served

ROWS = trees.films()


def test_the_names_are_those_of_the_concept_bank():
    bank = {one.key: one.name for one in load_concepts("chestxray14").classes}
    assert bank == _chestxray14.FINDINGS


def own_table(root, rows):
    """A table of 0 and 1 as people make one, the images in one folder."""
    lines = ["image,patient,split,chexnet_split," + ",".join(_chestxray14.FINDINGS)]
    for k, (name, found, patient) in enumerate(rows):
        cells = [str(int(code in found.split("|"))) for code in _chestxray14.FINDINGS]
        split = "test" if k % 5 == 0 else "train"
        by_patient = "val" if patient < 4 else "train"
        lines.append(",".join([name, str(patient), split, by_patient, *cells]))
        trees.image(root / "images" / name, k)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("layout", [trees.nih, own_table])
def test_every_layout_gives_the_same_rows(tmp_path, layout):
    layout(tmp_path, ROWS)
    data = fetch_chestxray14(tmp_path)
    assert [path.rpartition("/")[2] for path in data.images] == [row[0] for row in ROWS]
    assert data.groups.tolist() == [row[2] for row in ROWS]
    assert list(data.target.columns) == list(_chestxray14.FINDINGS.values()) == data.target_names
    for (_, found, _), cells in zip(ROWS, data.target.to_numpy(), strict=True):
        named = [_chestxray14.FINDINGS[code] for code in found.split("|") if code != "No Finding"]
        assert sorted(data.target.columns[cells == 1]) == sorted(named)
    parts = data.splits["group"]
    sides = [set(data.groups[rows]) for rows in parts.values()]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert (data.task, data.metric, data.scoring) == ("multi-label", "macro_auroc", "roc_auc")


def test_the_official_split_is_the_default_where_its_lists_are(tmp_path):
    trees.nih(tmp_path, ROWS)
    data = fetch_chestxray14(tmp_path)
    assert data.splits.default == "official"
    assert set(data.part("test").groups) == set(range(5))
    assert set(data.part("train").groups) == set(range(5, 20))
    assert len(fetch_chestxray14(tmp_path, split="group").part("val").images) > 0
    (tmp_path / "test_list.txt").unlink()
    data = fetch_chestxray14(tmp_path)
    assert data.splits.default == "group"
    with pytest.raises(InputError, match=r"no split 'official'.* Put NIH's train_val_list.txt and"):
        data.part("train", "official")
    with pytest.raises(InputError, match="'official' needs NIH's two lists in the folder"):
        fetch_chestxray14(tmp_path, split="official")


def test_columns_are_splits_and_one_by_image_warns(tmp_path):
    own_table(tmp_path, ROWS)
    data = fetch_chestxray14(tmp_path, split="chexnet")
    assert list(data.splits) == ["group", "table", "chexnet"]
    assert set(data.part("val").groups) == set(range(4))
    with pytest.warns(SkmoecbmWarning, match="divides images, not patients: 12 of its 12 test"):
        data.part("test", "table")


def test_a_part_of_the_images_is_enough_if_asked(tmp_path):
    trees.nih(tmp_path, ROWS)
    for path in (tmp_path / "images_003").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"5 of the 60 images .* the first is '00000000_002.png'"):
        fetch_chestxray14(tmp_path)
    with pytest.warns(SkmoecbmWarning, match="5 of the 60 images"):
        data = fetch_chestxray14(tmp_path, on_missing="warn")
    assert len(data.target) == 55 and set(data.part("test").groups) <= set(range(5))
    X, y = fetch_chestxray14(tmp_path, on_missing="ignore", return_X_y=True)
    assert len(X) == 55 and y.shape == (55, 14)


def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no table with columns 'Image Index', 'Patient ID'"):
        fetch_chestxray14(tmp_path)
    trees.nih(tmp_path / "a", [*ROWS, ("00000099_000.png", "Mass|Cold", 99)])
    with pytest.raises(InputError, match=r"finding 'Cold' at '00000099_000.png'"):
        fetch_chestxray14(tmp_path / "a")
    own_table(tmp_path / "b", ROWS)
    path = tmp_path / "b" / "labels.csv"
    table = pd.read_csv(path)
    table.loc[7, "Hernia"] = -1
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"must be 0 or 1.*'00000002_001.png'"):
        fetch_chestxray14(tmp_path / "b")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A double of the Hub that holds the data set."""
    trees.nih(tmp_path / "source", ROWS, table="Data_Entry_2017_v2020.csv")
    place = f"/datasets/{_chestxray14.REPO}/resolve/{_chestxray14.REVISION}/data/"
    with served() as server:
        for path in (tmp_path / "source").iterdir():
            if path.is_file():
                server.files[place + path.name] = path.read_bytes()
                continue
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for image in path.rglob("*.png"):
                    archive.write(image, f"images/{image.name}")
            server.files[f"{place}images/{path.name}.zip"] = packed.getvalue()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        server.place = place
        yield server


def test_it_is_downloaded_from_the_hub_once(hub, tmp_path):
    home = tmp_path / "home"
    with pytest.raises(DownloadError, match=r"download_if_missing is False.* By hand: get the arc"):
        fetch_chestxray14(data_home=home, download_if_missing=False)
    hub.faults[f"{hub.place}images/images_004.zip"] = [{"cut": 20}]
    data = fetch_chestxray14(data_home=home, verbose=False)
    assert len(data.images) == 60 and data.splits.default == "official"
    asked = [path for path, _ in hub.requests if path.startswith(hub.place)]
    assert len(asked) == 16  # twelve archives, one of them twice, and three texts
    n_requests = len(hub.requests)
    assert len(fetch_chestxray14(data_home=home, download_if_missing=False).images) == 60
    assert len(hub.requests) == n_requests
    assert not list((home / "chestxray14").glob("*.zip"))


@pytest.mark.parametrize(
    ("name", "turn", "said"),
    [
        ("test_list.txt", lambda content: content + b"x", "more than the .* bytes that were"),
        ("test_list.txt", lambda content: content[:-2] + b"x\n", "its git checksum is"),
        ("images/images_002.zip", lambda content: content[:-1] + b"x", "its sha256 checksum is"),
    ],
)
def test_a_changed_file_on_the_hub_is_refused(hub, tmp_path, name, turn, said):
    path = hub.place + name

    class Changed(dict):
        def __getitem__(self, key):  # what is told of a file and what comes differ
            content = super().__getitem__(key)
            return turn(content) if key == path else content

    hub.files = Changed(hub.files)
    with pytest.raises(DownloadError, match=rf"'{name.rpartition('/')[2]}' from .*{said}"):
        fetch_chestxray14(data_home=tmp_path, verbose=False)


def test_a_file_that_is_gone_from_the_hub_is_named(hub, tmp_path):
    del hub.files[hub.place + "test_list.txt"]
    with pytest.raises(DownloadError, match=r"'data/test_list.txt' is not in it any more. By hand"):
        fetch_chestxray14(data_home=tmp_path, verbose=False)


def test_a_hub_that_may_not_be_asked_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    with pytest.raises(DownloadError, match=r"the Hugging Face Hub .* HF_HUB_OFFLINE is set.* By"):
        fetch_chestxray14(data_home=tmp_path)


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    with served() as server:  # nobody listens there once it is left
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DownloadError, match=r"the Hub cannot be reached .*\. By hand: get the arc"):
        fetch_chestxray14(data_home=tmp_path)


def test_the_real_data_set(data_dir):
    root = data_dir / "chestxray14_1000"
    data = fetch_chestxray14(root)
    table = pd.read_csv(root / "labels.csv")
    assert len(data.images) == len(table) == 706
    np.testing.assert_array_equal(data.target, table[list(_chestxray14.FINDINGS)])
    assert data.groups.tolist() == table["patient"].tolist()
    with pytest.warns(SkmoecbmWarning, match="18 of its 99 test images"):
        data.splits["table"]
    assert list(data.splits) == ["group", "table", "chexnet"]
