"""One file from a server to a folder: resumed after a cut, checked, and there as a whole or not."""

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
from tqdm import tqdm

from skmoecbm.datasets._http import ATTEMPTS, open_url, pause_before, why, worth_another_try
from skmoecbm.exceptions import DownloadError

__all__ = ["RemoteFile", "checksum_of", "download", "folder_lock"]

logger = logging.getLogger("skmoecbm")

_CHUNK = 2**20
_KINDS = ("git", "md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_RANGE_TOTAL = re.compile(r"bytes \*/(\d+)")
_RANGE = re.compile(r"bytes (\d+)-")


@dataclass(frozen=True)
class RemoteFile:
    """A file at a server.

    Attributes
    ----------
    url : str
    name : str
        What it is called here.
    checksum : str or None
        "md5:...", "sha256:..." or "git:..." (of a blob), in hexadecimal digits. None where nobody
        publishes one: who reads the file must check what is in it.
    size : int or None
        Bytes, as published. Without them and a checksum the length that the server tells is all
        that a file is measured by; one that tells none and is cut passes for whole.
    """

    url: str
    name: str
    checksum: str | None = None
    size: int | None = None


class _CutError(ConnectionError):
    """The server ended before the file did."""


class _AnswerError(OSError):
    """What the server tells of the file is none of what it may tell."""


@contextmanager
def folder_lock(folder):
    """Hold the one lock of a data set's folder: a second process waits, and finds it complete.

    Raises
    ------
    DownloadError
        If the folder cannot be made or written.
    """
    folder = Path(folder)
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("waiting for another process that downloads into %s", folder)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DownloadError(
            f"The folder {str(folder)!r} for downloads cannot be written ({error}). Name another "
            "one with data_home or SKMOECBM_DATA."
        ) from error
    try:
        yield folder
    finally:
        lock.release()


def checksum_of(path, kind):
    """Return the checksum of a file: "md5", "sha256", or "git" (a blob's)."""
    digest = _hasher(kind, os.path.getsize(path))
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hasher(kind, size):
    if kind == "git":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if kind == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.new(kind)


def download(file, folder, *, remedy, verbose=True):
    """Fetch a file unless it is there.

    Parameters
    ----------
    file : RemoteFile
    folder : path-like
        Hold its `folder_lock`.
    remedy : str
        How to get the file by hand: the last sentence of an error.
    verbose : bool, default=True
        Show a progress bar.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    DownloadError
        If it cannot be had. What came so far stays as "NAME.part", and the next call goes on there.
    """
    target = Path(folder) / file.name
    if target.exists():
        return target
    part = target.with_name(file.name + ".part")
    problem = f"Could not download {file.name!r} from {file.url}"
    kind = (file.checksum or "md5").partition(":")[0]
    if kind not in _KINDS:
        raise DownloadError(f"{problem}: {kind!r} is no checksum that is known here. {remedy}")
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.exists() and part.stat().st_size > 0
    try:
        _receive(file, part, verbose)
        wrong = _fault_of(file, part)
        if wrong and resumed:  # the beginning may be of another version: once more from there
            part.unlink()
            _receive(file, part, verbose)
            wrong = _fault_of(file, part)
    except _AnswerError as error:
        raise DownloadError(f"{problem}: {error}. {remedy}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{problem}: {why(error)}. {_way_on(error, part, remedy)}") from error
    if wrong:
        part.unlink()
        raise DownloadError(
            f"{problem}: {wrong}. What came was removed. Try again; if that does not help, the "
            f"file has been changed there, or something on the way changes it. {remedy}"
        )
    os.replace(part, target)
    return target


def _way_on(error, part, remedy):
    if getattr(getattr(error, "reason", error), "errno", None) == errno.ENOSPC:
        return (
            f"Free some space, or name a folder on a larger disk (data_home, or SKMOECBM_DATA). "
            f"What came so far is {str(part)!r}; the next call goes on there."
        )
    return remedy


def _receive(file, part, verbose):
    """Fill the part up to the end, in as many requests as it takes."""
    longest, failures = 0, 0
    while True:
        try:
            _request(file, part, verbose)
            return
        except (OSError, http.client.HTTPException) as error:
            size = part.stat().st_size if part.exists() else 0
            failures = 0 if size > longest else failures + 1
            longest = max(size, longest)
            if not worth_another_try(error) or failures >= ATTEMPTS:
                raise
            pause_before(error, failures)


def _request(file, part, verbose):
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = open_url(file.url, headers)
    except OSError as error:
        if getattr(error, "code", None) != 416:
            raise
        # nothing lies beyond: it is complete, which the checksum tells, or longer than the file
        total = _RANGE_TOTAL.match(error.headers.get("Content-Range") or "")
        if total and int(total[1]) == start:
            return
        part.unlink()
        answer, start = open_url(file.url), 0
    with answer:
        place = _RANGE.match(answer.headers.get("Content-Range") or "")
        if start and not (answer.status == 206 and place and int(place[1]) == start):
            start = 0  # this server sends all of it, whatever was asked for
        length = answer.headers.get("Content-Length")
        if length is not None and not re.fullmatch(r"\s*[0-9]{1,18}\s*", length):
            raise _AnswerError(f"the server tells {length[:20]!r} as its length")
        told = [] if length is None else [start + int(length)]
        known = [] if file.size is None else [file.size]
        total = min(told + known, default=None)
        _room_for(part, total, start)
        _write(answer, part, start, total, file, verbose)


def _room_for(part, total, start):
    free = shutil.disk_usage(part.parent).free
    missing = 0 if total is None else total - start
    if missing > free:
        raise OSError(errno.ENOSPC, f"{missing:,} bytes are to come, {free:,} are free")


def _write(answer, part, start, total, file, verbose):
    """Write what comes behind `start`, up to the chunk that goes past the published size."""
    bar = tqdm(
        total=total,
        initial=start,
        desc=file.name,
        unit="B",
        unit_scale=True,
        disable=not verbose,
        mininterval=0.5,
    )
    with bar, open(part, "r+b" if start else "wb") as out:
        out.seek(start)
        place = start
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            place += len(chunk)
            bar.update(len(chunk))
            if file.size is not None and place > file.size:
                break
        if total is not None and place < total:
            raise _CutError(f"the server ended after {place:,} of {total:,} bytes")


def _fault_of(file, part):
    """Return what is wrong with a complete part in one clause, or None."""
    size = part.stat().st_size
    if file.size is not None and size != file.size:
        if size > file.size:  # how many is not known: it was not read to its end
            return f"it has more than the {file.size:,} bytes that were published"
        return f"it has {size:,} bytes instead of {file.size:,}"
    if file.checksum is None:
        return None
    kind, _, wanted = file.checksum.partition(":")
    found = checksum_of(part, kind)
    if found != wanted.lower():
        return f"its {kind} checksum is {found}, and {wanted} is what was published"
    return None
