"""The files of the embedding store: immutable safetensors, each row with its own checksum."""

import contextlib
import hashlib
import os
import secrets
import time
import warnings
import zlib

import numpy as np
import safetensors
from safetensors.numpy import save

from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = [
    "SUFFIX",
    "TEMPORARY",
    "EmbeddingFile",
    "check_rows",
    "digest_keys",
    "identify",
    "merge_files",
    "read_file",
    "remove_file",
    "warn_once",
    "write_file",
]

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
FORMAT = "skmoecbm-embeddings-1"

_RECENT = 3600  # seconds: the precision of "last used"
_warned = set()


def warn_once(subject, message):
    """Warn about `subject` (a path) once in the life of this process."""
    if str(subject) not in _warned:
        _warned.add(str(subject))
        warnings.warn(message, SkmoecbmWarning, stacklevel=4)


def digest_keys(keys):
    """Return 128-bit digests of the strings `keys` as a uint64 array of shape (n, 2)."""
    if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
        raise InputError(
            "The keys of embeddings must be a sequence of strings, as image_key returns them. "
            f"Got {str(keys)[:100]} instead."
        )
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _checksums(fingerprint, keys, rows):
    """Return CRC-32 of (fingerprint, key, row) per row: a row is bound to what it belongs to."""
    seed = zlib.crc32(fingerprint.encode())
    pairs = zip(np.ascontiguousarray(keys), np.ascontiguousarray(rows), strict=True)
    checks = (zlib.crc32(row, zlib.crc32(key, seed)) for key, row in pairs)
    return np.fromiter(checks, dtype=np.uint32, count=len(keys))


def check_rows(fingerprint, keys, rows, checks):
    """Return which rows are as they were written, as a bool array of shape (n,)."""
    return _checksums(fingerprint, keys, rows) == checks


def write_file(folder, fingerprint, keys, rows, label, *, sync=False):
    """Write one file under a name made from its keys, complete or not at all; return its path.

    Without `sync` a power failure soon after may leave a damaged file, which its checksums tell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save(
        {"keys": keys, "rows": rows, "checks": _checksums(fingerprint, keys, rows)},
        metadata={"format": FORMAT, "fingerprint": fingerprint, "label": label},
    )
    name = hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()
    temporary = folder / f"{secrets.token_hex(8)}{TEMPORARY}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, folder / f"{name}{SUFFIX}")
    finally:
        temporary.unlink(missing_ok=True)
    return folder / f"{name}{SUFFIX}"


def read_file(path, fingerprint=None):
    """Return (keys, rows, checks, metadata) of a file, the rows as a map of the file.

    Raises
    ------
    OSError
        If the file is not there or may not be read.
    ValueError
        If it is damaged, or belongs to another fingerprint.
    """
    try:
        # the torch reader maps the file, numpy's would copy all rows
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            keys, rows, checks = (file.get_tensor(n).numpy() for n in ("keys", "rows", "checks"))
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
    except RuntimeError as error:  # torch opens the file a second time: it may be gone by then
        raise (OSError if path.exists() else FileNotFoundError)(str(error)) from error
    shapes_fit = rows.ndim == 2 and keys.shape == (len(rows), 2) and checks.shape == (len(rows),)
    types_fit = (keys.dtype, rows.dtype, checks.dtype) == (np.uint64, np.float32, np.uint32)
    if metadata.get("format") != FORMAT or not (shapes_fit and types_fit):
        raise ValueError("it is no file of the embedding store")
    if fingerprint is not None and metadata.get("fingerprint") != fingerprint:
        raise ValueError("it belongs to another backbone")
    return keys, rows, checks, metadata


def identify(status):
    """Return what changes when a file is replaced; an inode alone may be given out again."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class EmbeddingFile:
    """The key table of one file, in memory; the rows stay on disk.

    Raises
    ------
    OSError, ValueError
        As `read_file`.
    """

    def __init__(self, path, fingerprint):
        status = os.stat(path)
        keys, rows, checks, _ = read_file(path, fingerprint)
        self.path = path
        self.fingerprint = fingerprint
        self.status = identify(status)
        self.used = status.st_mtime
        self.dim = rows.shape[1]
        self._order = np.argsort(keys[:, 0], kind="stable")
        # a copy, since the map would keep a removed file's disk space taken
        self._keys = keys[self._order]
        self._firsts = np.ascontiguousarray(self._keys[:, 0])
        self._checks = checks[self._order]

    def fill(self, wanted, found, rows):
        """Set `rows` and `found` in place, for those of `wanted` not yet found that are here."""
        missing = np.flatnonzero(~found)
        at = np.searchsorted(self._firsts, wanted[missing, 0]).clip(max=len(self._firsts) - 1)
        hits = (self._keys[at] == wanted[missing]).all(axis=1)
        missing, at = missing[hits], at[hits]
        if not len(missing) or self.dim != rows.shape[1]:
            return
        gathered = read_file(self.path, self.fingerprint)[1][self._order[at]]
        good = check_rows(self.fingerprint, wanted[missing], gathered, self._checks[at])
        rows[missing[good]] = gathered[good]
        found[missing[good]] = True
        if not good.all():
            warn_once(
                self.path,
                f"{np.sum(~good):,} embedding(s) in {str(self.path)!r} are damaged and will be "
                "computed again. Remove the damage with: skmoecbm cache verify.",
            )
        if time.time() - self.used > _RECENT:
            self.used = time.time()
            try:
                os.utime(self.path)  # eviction goes by the time of last use
            except OSError:  # someone else's file: its owner's uses count
                return


def merge_files(paths, fingerprint, largest):
    """Put the intact rows of many files of one fingerprint into few of up to `largest` bytes.

    Whoever dies on the way, or merges the same files at the same time, leaves a row twice at worst.
    """
    statuses = {}
    for path in paths:
        with contextlib.suppress(OSError):  # removed by another process
            statuses[path] = path.stat()
    chunk, n_bytes = [], 0
    for path in sorted(statuses, key=lambda path: statuses[path].st_mtime):
        if n_bytes + statuses[path].st_size > largest:
            _merge_into_one(chunk, fingerprint)
            chunk, n_bytes = [], 0
        chunk.append(path)
        n_bytes += statuses[path].st_size
    _merge_into_one(chunk, fingerprint)


def _merge_into_one(paths, fingerprint):
    merged, parts, label, dim = [], [], "", None
    for path in paths:
        try:
            keys, rows, checks, metadata = read_file(path, fingerprint)
        except (OSError, ValueError):  # removed by another process, or damaged: reported on reading
            continue
        if dim in (None, rows.shape[1]):
            good = check_rows(fingerprint, keys, rows, checks)
            parts.append((keys[good], rows[good]))
            merged.append(path)
            label, dim = label or metadata.get("label", ""), rows.shape[1]
    if len(parts) < 2:
        return
    keys, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # in the order of writing, so that images embedded together stay together on disk
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    if len(first):
        target = write_file(
            paths[0].parent, fingerprint, keys[first], rows[first], label, sync=True
        )
        merged = [path for path in merged if path != target]
    for path in merged:
        remove_file(path)


def remove_file(path):
    """Remove a file if it is there; return whether that worked."""
    try:
        path.unlink()
    except OSError:  # gone already, someone else's, or in use (Windows): the next round tries again
        return False
    return True
