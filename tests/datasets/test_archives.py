"""Archives: whole, damaged, locked, larger than the disk."""

import errno
import io
import os
import shutil
import zipfile
from collections import namedtuple

import pytest

from skmoecbm.datasets._archives import unpack
from skmoecbm.exceptions import DownloadError


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


def test_an_archive_is_unpacked_as_a_whole_and_removed(tmp_path):
    (tmp_path / ".parts.part").mkdir()  # of a process that was killed
    (tmp_path / ".parts.part" / "half").touch()
    archive = tmp_path / "parts.zip"
    archive.write_bytes(zipped(**{"in/a.txt": "a", "../../b.txt": "b", "/c.txt": "c"}))
    unpack(archive, tmp_path / "parts", verbose=False)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["parts/b.txt", "parts/c.txt", "parts/in/a.txt"]


def test_a_damaged_archive_is_removed_and_said(tmp_path):
    content = zipped(a="a" * 10_000)
    (tmp_path / "a.zip").write_bytes(content[:40] + b"???" + content[43:])
    with pytest.raises(DownloadError, match="the next call downloads it again"):
        unpack(tmp_path / "a.zip", tmp_path / "a", verbose=False)
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.zip").exists()


def test_an_archive_larger_than_the_disk_is_kept(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9, 8, 10))
    (tmp_path / "a.zip").write_bytes(zipped(a="a" * 10_000))
    with pytest.raises(DownloadError, match="10,000 bytes come out of it, 10 are free"):
        unpack(tmp_path / "a.zip", tmp_path / "a", verbose=False)
    assert (tmp_path / "a.zip").exists() and not (tmp_path / "a").exists()


def with_header(content, *, flag=None, method=None):
    """Return a ZIP file of one member with another flag or compression, at both its places."""
    content = bytearray(content)
    for mark, shift in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark) + shift
        content[at] |= flag or 0
        content[at + 2] = content[at + 2] if method is None else method
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_header(zipped(a="a"), flag=1), "password"),
        (with_header(zipped(a="a"), method=97), "compression"),
        (zipped(**{"a": "file", "a/b": "folder of one name"}), "directory|exists"),
    ],
    ids=["encrypted", "compression", "file and folder"],
)
def test_an_archive_that_cannot_be_unpacked_says_the_way_on(tmp_path, content, said):
    archive, folder = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(content)
    told = rf"Could not unpack '.*a.zip': .*({said}).*\. Delete this file, .* folder '.*out'\.$"
    for _ in range(2):
        with pytest.raises(DownloadError, match=told):
            unpack(archive, folder, verbose=False)
        assert os.listdir(tmp_path) == ["a.zip"]
    folder.mkdir()  # unpacked by other means
    unpack(archive, folder, verbose=False)


def test_a_disk_that_fills_while_unpacking_leaves_the_archive(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.zip").write_bytes(zipped(a="a", b="b"))
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", full)
        with pytest.raises(DownloadError, match=r"the disk is full\. Free some space"):
            unpack(tmp_path / "a.zip", tmp_path / "a", verbose=False)
    assert os.listdir(tmp_path) == ["a.zip"]
    unpack(tmp_path / "a.zip", tmp_path / "a", verbose=False)
    assert sorted(os.listdir(tmp_path / "a")) == ["a", "b"]
