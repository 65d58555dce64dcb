"""Downloads against a server that cuts, stumbles, lies and refuses."""

import errno
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from skmoecbm.datasets import _download, _http
from skmoecbm.datasets._dataverse import dataverse_files
from skmoecbm.datasets._download import RemoteFile, checksum_of, download, folder_lock
from skmoecbm.datasets._folders import data_folder
from skmoecbm.exceptions import DownloadError, InputError
from tests.datasets.file_server import served

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    with served({"/big.bin": CONTENT}) as running:
        yield running


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited for, without waiting."""
    told = []
    monkeypatch.setattr(_http.time, "sleep", told.append)
    return told


class Counting:
    """An answer that keeps how many bytes were read of it."""

    def __init__(self, answer, sizes):
        self.answer, self.sizes = answer, sizes
        self.headers, self.status = answer.headers, answer.status

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.answer.close()

    def read(self, n):
        chunk = self.answer.read(n)
        self.sizes.append(len(chunk))
        return chunk


def remote(server, path="/big.bin", checksum=f"md5:{MD5}", size=None):
    return RemoteFile(server.address + path, path.rpartition("/")[2], checksum, size)


def fetch(server, folder, **options):
    return download(remote(server, **options), folder, remedy="By hand.", verbose=False)


def test_a_file_comes_once_and_whole(server, tmp_path):
    path = fetch(server, tmp_path / "new", path="/moved/big.bin")
    assert path.read_bytes() == CONTENT
    assert fetch(server, tmp_path / "new") == path
    assert [asked for asked, _ in server.requests] == ["/moved/big.bin", "/big.bin"]
    assert os.listdir(tmp_path / "new") == ["big.bin"]


def test_a_cut_is_resumed_where_it_was(server, tmp_path, waits):
    server.faults["/big.bin"] = [{"cut": 1_000_000}, {"cut": 2_000_000}]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=3000000-"]
    assert len(waits) == 2


def test_a_later_call_goes_on_with_what_is_there(server, tmp_path):
    (tmp_path / "big.bin.part").write_bytes(CONTENT[:4_000_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/big.bin", "bytes=4000000-")]


@pytest.mark.parametrize("there", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_part_that_has_nothing_to_come_is_checked_or_begun_anew(server, tmp_path, there):
    (tmp_path / "big.bin.part").write_bytes(there)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == (1 if there == CONTENT else 2)


def test_a_part_of_another_version_is_begun_anew(server, tmp_path):
    (tmp_path / "big.bin.part").write_bytes(b"x" * 1000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


def test_a_server_without_ranges_sends_all_again(server, tmp_path, waits):
    server.ignores_ranges = True
    server.faults["/big.bin"] = [{"cut": 1_000_000}]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1] == ("/big.bin", "bytes=1000000-")


def test_a_server_that_always_cuts_at_one_place_is_given_up(server, tmp_path, waits):
    server.ignores_ranges = True
    server.faults["/big.bin"] = [{"cut": 1_000_000}] * 50
    with pytest.raises(DownloadError, match="ended after 1,000,000 of 5,120,000 bytes"):
        fetch(server, tmp_path)
    assert len(server.requests) == _http.ATTEMPTS + 1
    assert (tmp_path / "big.bin.part").stat().st_size == 1_000_000


def test_many_cuts_are_no_reason_to_give_up_while_it_goes_on(server, tmp_path, waits):
    server.faults["/big.bin"] = [{"cut": 400_000}] * 12
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", ["md5:" + "0" * 32, "sha256:" + "0" * 64])
def test_a_wrong_checksum_leaves_nothing(server, tmp_path, checksum):
    with pytest.raises(DownloadError, match=r"checksum is \w+, and 0+ is what .* By hand"):
        fetch(server, tmp_path, checksum=checksum)
    assert os.listdir(tmp_path) == []
    assert len(server.requests) == 1


def test_a_wrong_size_is_told_in_bytes(server, tmp_path):
    with pytest.raises(DownloadError, match=r"has more than the 7 bytes that were published"):
        fetch(server, tmp_path, size=7)
    server.files["/big.bin"] = CONTENT[:1000]
    with pytest.raises(DownloadError, match=r"has 1,000 bytes instead of 7,000"):
        fetch(server, tmp_path, size=7000)
    assert os.listdir(tmp_path) == []


def test_a_server_that_never_ends_is_left_at_the_published_size(server, tmp_path):
    server.files["/big.bin"] = b"x" * 50_000_000
    server.faults["/big.bin"] = [{"no length": True}]
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_download, "open_url", lambda *a: Counting(_http.open_url(*a), read))
        with pytest.raises(DownloadError, match="more than the 3,000,000 bytes"):
            fetch(server, tmp_path, size=3_000_000)
    assert sum(read) < 5_000_000 and os.listdir(tmp_path) == []


def test_a_cut_without_a_length_is_seen_by_the_published_size(server, tmp_path, waits):
    server.faults["/big.bin"] = [{"no length": True, "cut": 1_000_000}]
    assert fetch(server, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.requests[1] == ("/big.bin", "bytes=1000000-")


@pytest.mark.parametrize("length", ["abc", "-5", "²", "5, 5"])
def test_a_length_that_is_none_is_one_sentence(server, tmp_path, length):
    server.faults["/big.bin"] = [{"status": 200, "headers": {"Content-Length": length}}]
    with pytest.raises(DownloadError, match=r"Could not .*tells '.*' as its length\. By hand\."):
        fetch(server, tmp_path)


def test_a_checksum_of_no_known_kind_is_said_before_the_download(server, tmp_path):
    with pytest.raises(DownloadError, match=r"'crc32' is no checksum that is known.* By hand"):
        fetch(server, tmp_path, checksum="crc32:00")
    assert server.requests == []


@pytest.mark.parametrize("asked", ["²", "Wed, 21 Oct 2037 07:28:00 GMT", "-1"])
def test_a_wait_that_is_no_number_is_the_usual_one(server, tmp_path, waits, asked):
    server.faults["/big.bin"] = [{"status": 503, "headers": {"Retry-After": asked}}]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(waits) == 1


def test_what_passes_is_waited_for_as_the_server_asks(server, tmp_path, waits):
    server.faults["/big.bin"] = [
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 502},
    ]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert waits[1] == 7 and waits[0] < waits[2]


@pytest.mark.parametrize(
    ("status", "said", "requests"),
    [
        (404, "not there any more", 1),
        (403, "refuses it", 1),
        (401, "asks for a login", 1),
        (503, "fault of its own", 5),
    ],
)
def test_what_does_not_pass_is_said_with_the_way_by_hand(
    server, tmp_path, waits, status, said, requests
):
    server.faults["/big.bin"] = [{"status": status}] * 9
    message = rf"Could not download 'big.bin' from http://\S+: .*{said}.*\({status}\)\. By hand\.$"
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(server, tmp_path)
    assert isinstance(caught.value, OSError)
    assert len(server.requests) == requests
    assert not (tmp_path / "big.bin").exists()


def test_a_server_that_is_away_is_asked_once(tmp_path, waits):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        file = RemoteFile(f"http://127.0.0.1:{taken.getsockname()[1]}/x", "x", None)
        with pytest.raises(DownloadError, match=r"takes no connections\. By hand\."):
            download(file, tmp_path, remedy="By hand.", verbose=False)
    assert waits == []


def test_no_network_is_said(tmp_path, monkeypatch, waits):
    def lookup(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.delenv("https_proxy")
    file = RemoteFile("https://data.example/x", "x", None)
    with pytest.raises(DownloadError, match=r"there is no network, or no such server. By hand"):
        download(file, tmp_path, remedy="By hand.", verbose=False)
    assert waits == []


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    (tmp_path / "big.bin.part").write_bytes(CONTENT[:1000])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9, 8, 1000))
    with pytest.raises(DownloadError, match=r"the disk is full\. Free some space, or"):
        fetch(server, tmp_path)
    assert (tmp_path / "big.bin.part").read_bytes() == CONTENT[:1000]
    monkeypatch.undo()
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_disk_that_fills_meanwhile_is_the_same_sentence(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skmoecbm.datasets._download.open", lambda *a: Full(), raising=False)
    with pytest.raises(DownloadError, match="the disk is full"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_folder_that_may_not_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match=r"'\S+/file/x' for downloads cannot be written"):
        with folder_lock(tmp_path / "file" / "x"):
            pass
    (tmp_path / "big.bin.part").mkdir()
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(server, tmp_path)


# Of the package only what downloads is imported: all of it takes seconds.
CHILD = """
import sys, types
package = types.ModuleType("skmoecbm.datasets")
package.__path__ = [sys.argv[4]]
sys.modules["skmoecbm.datasets"] = package
from skmoecbm.datasets._download import RemoteFile, download, folder_lock
print("ready", flush=True)
with folder_lock(sys.argv[2]) as folder:
    file = RemoteFile(sys.argv[1], "big.bin", sys.argv[3])
    print(download(file, folder, remedy="", verbose=False))
"""


def test_two_processes_at_once_download_one_file(server, tmp_path):
    server.gate.clear()
    package = Path(_http.__file__).parent
    command = [sys.executable, "-c", CHILD, server.address + "/big.bin", tmp_path, f"md5:{MD5}"]
    children = [
        subprocess.Popen(
            [*command, package], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    server.gate.set()
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        assert Path(out.strip()).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/big.bin"]


def test_progress_goes_to_standard_error_or_nowhere(server, tmp_path, capsys):
    download(remote(server), tmp_path / "a", remedy="", verbose=True)
    told = capsys.readouterr()
    assert "big.bin" in told.err and "5.12M" in told.err and told.out == ""
    download(remote(server), tmp_path / "b", remedy="", verbose=False)
    assert capsys.readouterr() == ("", "")


def test_checksums_are_those_of_the_tools(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    # as md5sum, sha256sum and `git hash-object` print them
    assert checksum_of(tmp_path / "a.txt", "md5") == "b1946ac92492d2347c6235b4d2611184"
    assert checksum_of(tmp_path / "a.txt", "sha256").startswith("5891b5b522d5df086d0ff0b110fbd9d2")
    assert checksum_of(tmp_path / "a.txt", "git") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_dataverse_tells_its_files_with_checksums(server):
    server.dataverse["doi:1/2"] = {
        "part.zip": {"filename": "part.zip", "filesize": 3, "md5": "aa"},
        "table.tab": {
            "filename": "table.tab",
            "filesize": 99,
            "originalFileFormat": "text/csv",
            "originalFileName": "table.csv",
            "originalFileSize": 5,
            "checksum": {"type": "SHA-256", "value": "bb"},
        },
    }
    found = dataverse_files(server.address, "doi:1/2", ["table", "part"], remedy="By hand.")
    assert list(found) == ["table", "part"]
    # the checksum of a table is that of the file that was given, not of the Dataverse's own form
    url = server.address + "/api/access/datafile/1?format=original"
    assert found["table"] == RemoteFile(url, "table.csv", "sha256:bb", 5)
    url = server.address + "/api/access/datafile/0"
    assert found["part"] == RemoteFile(url, "part.zip", "md5:aa", 3)
    with pytest.raises(DownloadError, match=r"'other' is not among them any more. By hand"):
        dataverse_files(server.address, "doi:1/2", ["other"], remedy="By hand.")


def test_a_dataverse_that_answers_otherwise_is_one_sentence(server, waits):
    place = "/api/datasets/:persistentId/"
    server.faults[place] = [{"status": 503}]
    assert dataverse_files(server.address, "doi:1/2", [], remedy="") == {}
    server.dataverse["doi:1/2"] = {"a.zip": {}}
    with pytest.raises(DownloadError, match=r"the answer has another form now. By hand"):
        dataverse_files(server.address, "doi:1/2", [], remedy="By hand.")
    server.faults[place] = [{"status": 200}]  # with a page that is no JSON
    with pytest.raises(DownloadError, match=r"cannot be read. By hand"):
        dataverse_files(server.address, "doi:1/2", [], remedy="By hand.")


def test_data_are_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.delenv("SKMOECBM_DATA", raising=False)
    assert data_folder().name == "datasets" and not data_folder().exists()
    monkeypatch.setenv("SKMOECBM_DATA", str(tmp_path / "here"))
    assert data_folder() == tmp_path / "here"
    assert data_folder(tmp_path) == tmp_path
    with pytest.raises(InputError, match="'data_home' parameter of fetch_x must be a path"):
        data_folder(3, "fetch_x")


def test_the_lock_makes_its_folder(tmp_path):
    with folder_lock(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
