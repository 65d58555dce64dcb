import os
import threading
from pathlib import Path

import pytest

from skmoecbm import FormatError
from skmoecbm._model_folder import open_file, read_bytes

LIMIT = 1000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(b"here")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "model"


def _link(folder, target):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(target)


def test_the_folder_may_be_a_link_and_a_file_may_link_to_its_neighbour(folder):
    (folder.parent / "latest").symlink_to(folder)
    assert read_bytes(folder.parent / "latest", "config.json", LIMIT) == b"here"
    (folder / "README.md").write_bytes(b"neighbour")
    _link(folder, "README.md")
    assert read_bytes(folder, "config.json", LIMIT) == b"neighbour"


@pytest.mark.parametrize(
    "target", ["../secret", "../model/../secret", "/etc/hostname", "{parent}/secret", "up/secret"]
)
def test_a_link_out_of_the_folder_is_not_followed(folder, target):
    (folder / "up").symlink_to("..")
    _link(folder, target.format(parent=folder.parent))
    with pytest.raises(FormatError, match="leads out of its folder"):
        read_bytes(folder, "config.json", LIMIT)


def test_links_of_the_hugging_face_cache_are_followed_to_its_blobs_alone(tmp_path):
    repo = tmp_path / "models--user--repo"
    snapshot = repo / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "aa").write_bytes(b"blob")
    (repo / "other").write_bytes(b"other")
    (repo / "blobs" / "deep").mkdir()
    (repo / "blobs" / "deep" / "aa").write_bytes(b"deep")
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    assert read_bytes(snapshot, "config.json", LIMIT) == b"blob"
    for target in (
        "../../other",
        "../../blobs/deep/aa",
        "../../../elsewhere",
        "../other/config.json",
    ):
        (tmp_path / "elsewhere").write_bytes(b"elsewhere")
        _link(snapshot, target)
        with pytest.raises(FormatError, match=r"leads out of its folder|has no config\.json"):
            read_bytes(snapshot, "config.json", LIMIT)
    elsewhere = repo / "models" / "0123abcd"  # not where the cache keeps them
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.json").symlink_to("../../blobs/aa")
    with pytest.raises(FormatError, match="leads out of its folder"):
        read_bytes(elsewhere, "config.json", LIMIT)


def test_a_blob_that_is_a_link_itself_is_not_followed(tmp_path):
    snapshot = tmp_path / "repo" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    (tmp_path / "repo" / "blobs").mkdir()
    (tmp_path / "repo" / "blobs" / "aa").symlink_to("/etc/hostname")
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    with pytest.raises(FormatError, match="leads out of its folder"):
        read_bytes(snapshot, "config.json", LIMIT)


def test_a_circle_of_links_and_a_link_to_nothing_say_so(folder):
    _link(folder, "config.json")
    with pytest.raises(FormatError, match=r"circle of links|cannot be read"):
        read_bytes(folder, "config.json", LIMIT)
    _link(folder, "nothing")
    with pytest.raises(FormatError, match=r"has no config\.json"):
        read_bytes(folder, "config.json", LIMIT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_and_nobody_waits(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    found = []

    def read():
        with pytest.raises(FormatError, match="no regular file"):
            read_bytes(folder, "config.json", LIMIT)
        found.append(True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert found


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(FormatError, match=r"no regular file|cannot be read"):
        read_bytes(folder, "config.json", LIMIT)


def test_size_is_limited_and_a_file_that_grows_is_not_followed(folder):
    (folder / "config.json").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(FormatError, match="is larger than"):
        read_bytes(folder, "config.json", LIMIT)
    (folder / "config.json").write_bytes(b"x" * LIMIT)
    with open_file(folder, "config.json", LIMIT) as (file, size):
        with (folder / "config.json").open("ab") as more:
            more.write(b"y" * 10 * LIMIT)
        assert len(file.read(size)) == size == LIMIT


def test_a_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    real = os.fstat

    def late(descriptor):
        found = real(descriptor)
        with (folder / "config.json").open("ab") as more:
            more.write(b"y")
        return found

    monkeypatch.setattr(os, "fstat", late)
    with pytest.raises(FormatError, match="changed while it was read"):
        read_bytes(folder, "config.json", LIMIT)


@pytest.mark.parametrize("name", ["nowhere", "a\0b", "x" * 5000])
def test_what_is_no_folder_says_so(tmp_path, name):
    with pytest.raises(FormatError, match=r"There is no folder|cannot be read"):
        read_bytes(Path(tmp_path) / name, "config.json", LIMIT)
