"""The embedding store: each image is embedded once, ever.

A folder holds one directory per backbone fingerprint, and in it immutable safetensors files with
three tensors: `keys` (n, 2) uint64, `rows` (n, d) float32 and `checks` (n,) uint32. A file appears
under its name only when it is complete (written beside, then renamed), is never changed, and is
merged with its like when there are many, so nothing needs a lock to be right. Every row carries a
CRC-32 of fingerprint, key and row, verified each time the row is handed out: a damaged file costs
its embeddings, never a wrong answer.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np

from skmoecbm._store_files import (
    SUFFIX,
    TEMPORARY,
    EmbeddingFile,
    check_rows,
    digest_keys,
    identify,
    merge_files,
    read_file,
    remove_file,
    warn_once,
    write_file,
)
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["EmbeddingStore", "default_cache_dir"]

_LARGEST_FILE = 128 * 2**20  # the unit of eviction; 1 million rows of 512 floats are 16 of these
_MERGE_AT = 16  # files of like size
_ABANDONED = 3600  # seconds after which a half-written file has no writer any more

# Per process: the rows of stores without a folder, and the key tables of those with one.
_lock = threading.Lock()
_memory = {}
_opened = {}


def default_cache_dir():
    """Return the folder of the embedding store, without creating it.

    `SKMOECBM_CACHE` if set, else the user's cache folder of the platform:
    `$XDG_CACHE_HOME/skmoecbm` or `~/.cache/skmoecbm`, `~/Library/Caches/skmoecbm` on macOS,
    `%LOCALAPPDATA%/skmoecbm/Cache` on Windows. The environment is read at each call.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> from skmoecbm.store import default_cache_dir
    >>> default_cache_dir().name == "embeddings"
    True
    """
    if chosen := os.environ.get("SKMOECBM_CACHE"):
        base = Path(chosen).expanduser()
    elif sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        base = Path(local) / "skmoecbm" / "Cache"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "skmoecbm"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skmoecbm"
    return base / "embeddings"


class EmbeddingStore:
    """Embeddings by the fingerprint of a backbone and the key of an image.

    Safe for several processes and threads at once, on one machine or on a shared disk; a process
    killed at any moment leaves nothing wrong behind. Stores with the same folder share their
    content, as do all stores of a process without one.

    Parameters
    ----------
    folder : path, "auto" or None
        `"auto"` is `default_cache_dir()`; None keeps the rows in the memory of this process.
        The folder is created by the first `put`. If it cannot be written, one warning says so and
        the memory of the process is used.
    max_bytes : int, default=4 GiB
        Upper bound of the size. Beyond it, the files used longest ago are removed until a tenth
        of the bound is free.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.store import EmbeddingStore
    >>> store = EmbeddingStore(None)
    >>> store.put("some backbone", ["a", "b"], np.eye(2, dtype=np.float32))
    >>> found, rows = store.get("some backbone", ["b", "c"])
    >>> found
    array([ True, False])
    >>> rows
    array([[ 0.,  1.],
           [nan, nan]], dtype=float32)
    """

    def __init__(self, folder="auto", *, max_bytes=4 * 2**30):
        check_number("EmbeddingStore", "max_bytes", max_bytes, low=1, integer=True)
        self.folder = default_cache_dir() if folder == "auto" else folder
        if self.folder is not None:
            self.folder = Path(self.folder).expanduser().absolute()
        self.max_bytes = max_bytes

    def get(self, fingerprint, keys):
        """Return which keys are stored, and their rows.

        Parameters
        ----------
        fingerprint : str
            Identity of the backbone.
        keys : sequence of str, length n
            What `image_key` returns, or any other strings.

        Returns
        -------
        found : bool array of shape (n,)
        rows : float32 array of shape (n, d)
            NaN where not found. `d` is 0 where nothing is stored under `fingerprint`.
        """
        wanted = digest_keys(keys)
        found = np.zeros(len(wanted), dtype=bool)
        with _lock:
            held = _memory.get((self.folder, fingerprint), {})
            hits = {i: held[key] for i, key in enumerate(map(bytes, wanted)) if key in held}
        dim = len(next(iter(hits.values()))) if hits else 0
        rows = np.full((len(wanted), dim), np.nan, dtype=np.float32)
        for position, row in hits.items():
            rows[position] = row
            found[position] = True
        seen = set()
        while not found.all():
            # listed again after each round: another process may have merged files meanwhile
            paths = [path for path in self._paths(fingerprint) if path.name not in seen]
            if not paths:
                break
            seen.update(path.name for path in paths)
            for path in paths:
                rows = self._fill_from(path, fingerprint, wanted, found, rows)
        return found, rows

    def _fill_from(self, path, fingerprint, wanted, found, rows):
        """Fill `found` and `rows` from one file; return rows, which learn their width here."""
        try:
            status = path.stat()
            with _lock:
                file = _opened.get(path)
            if file is None or file.status != identify(status):
                file = EmbeddingFile(path, fingerprint)
                with _lock:
                    for gone in [p for p in _opened if p.parent == path.parent and not p.exists()]:
                        del _opened[gone]
                    _opened[path] = file
            if rows.shape[1] == 0:
                rows = np.full((len(wanted), file.dim), np.nan, dtype=np.float32)
            file.fill(wanted, found, rows)
        except FileNotFoundError:  # merged or evicted since it was listed
            return rows
        except (OSError, ValueError) as error:
            warn_once(
                path,
                f"{str(path)!r} cannot be used ({error}): its embeddings will be computed again. "
                "Remove the damage with: skmoecbm cache verify.",
            )
        return rows

    def put(self, fingerprint, keys, rows, *, label=""):
        """Store rows under their keys; keys that are there already may be put again.

        Parameters
        ----------
        fingerprint : str
            Identity of the backbone.
        keys : sequence of str, length n
        rows : array-like of shape (n, d)
            Stored as float32; all finite.
        label : str, default=""
            Name of the backbone, shown by `info`.

        Raises
        ------
        InputError
            If shapes do not fit, or a row holds NaN or infinity.
        """
        digests = digest_keys(keys)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(keys) or rows.shape[1] == 0:
            raise InputError(
                f"Expected rows of shape ({len(keys)}, d), one per key, got {rows.shape}."
            )
        if not np.isfinite(rows).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise InputError(
                f"Row {row:,} of the embeddings holds NaN or infinity and is not stored. "
                "Leave missing images out."
            )
        if self.folder is not None:
            step = max(self._largest_file // rows[:1].nbytes, 1) if len(rows) else 1
            try:
                for start in range(0, len(rows), step):
                    part = slice(start, start + step)
                    folder = self.folder / _directory(fingerprint)
                    try:
                        write_file(folder, fingerprint, digests[part], rows[part], label)
                    except FileNotFoundError:  # another process has just cleared the folder
                        write_file(folder, fingerprint, digests[part], rows[part], label)
                self._maintain(fingerprint)
                return
            except OSError as error:
                warn_once(
                    self.folder,
                    f"The embedding store {str(self.folder)!r} cannot be written ({error}): "
                    "embeddings are kept in the memory of this process only. Set SKMOECBM_CACHE "
                    "or cache_dir to a folder that can, or make room: skmoecbm cache clear.",
                )
        with _lock:
            held = _memory.setdefault((self.folder, fingerprint), {})
            held.update((bytes(key), row.copy()) for key, row in zip(digests, rows, strict=True))
            room = max(self.max_bytes // rows[:1].nbytes, 1) if len(rows) else len(held)
            for key in list(held)[: max(len(held) - room, 0)]:
                del held[key]

    def info(self):
        """Return what is stored, as a dict; numbers of bytes are sizes on disk.

        Returns
        -------
        dict
            `folder`, `bytes`, `max_bytes`, and `backbones`: a list of dicts with `label`,
            `fingerprint`, `embeddings`, `dim` and `bytes`.
        """
        backbones = {}

        def add(fingerprint, label, shape, n_bytes):
            entry = {"label": "", "fingerprint": fingerprint, "embeddings": 0, "dim": 0, "bytes": 0}
            entry = backbones.setdefault(fingerprint, entry)
            entry["label"] = entry["label"] or label
            entry["embeddings"] += shape[0]
            entry["dim"] = shape[1]
            entry["bytes"] += n_bytes

        for path in self._paths():
            try:
                n_bytes = path.stat().st_size
                _, rows, _, metadata = read_file(path)
            except (OSError, ValueError):  # `verify` is there to tell about damage
                continue
            add(metadata["fingerprint"], metadata.get("label", ""), rows.shape, n_bytes)
        with _lock:
            for (folder, fingerprint), held in _memory.items():
                if folder == self.folder and held:
                    dim = len(next(iter(held.values())))
                    add(fingerprint, "", (len(held), dim), 4 * dim * len(held))
        return {
            "folder": None if self.folder is None else str(self.folder),
            "bytes": sum(entry["bytes"] for entry in backbones.values()),
            "max_bytes": self.max_bytes,
            "backbones": list(backbones.values()),
        }

    def verify(self):
        """Read every row, and remove files that hold a damaged one, or that a killed writer left.

        Returns
        -------
        dict
            `files` and `embeddings` that are intact, and `removed`: a list of paths.
        """
        result = {"files": 0, "embeddings": 0, "removed": []}
        for path in self._paths():
            try:
                keys, rows, checks, metadata = read_file(path)
                fingerprint = metadata.get("fingerprint", "")
                intact = path.parent.name == _directory(fingerprint)
                intact = intact and check_rows(fingerprint, keys, rows, checks).all()
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                intact = False
            if intact:
                result["files"] += 1
                result["embeddings"] += len(rows)
            elif remove_file(path):
                result["removed"].append(str(path))
        result["removed"] += [str(path) for path in self._abandoned() if remove_file(path)]
        return result

    def clear(self):
        """Remove everything that is stored.

        Returns
        -------
        dict
            `files` and `bytes` that were removed.
        """
        with _lock:
            for place in [place for place in _memory if place[0] == self.folder]:
                del _memory[place]
        result = {"files": 0, "bytes": 0}
        for path in [*self._paths(), *self._paths(suffix=TEMPORARY)]:
            with contextlib.suppress(OSError):  # another process is clearing too
                n_bytes = path.stat().st_size
                path.unlink()
                result["files"] += 1
                result["bytes"] += n_bytes
            with contextlib.suppress(OSError):  # not empty yet
                path.parent.rmdir()
        return result

    @property
    def _largest_file(self):
        return min(_LARGEST_FILE, max(self.max_bytes // 8, 1))

    def _paths(self, fingerprint=None, suffix=SUFFIX):
        """Return the files of one fingerprint or of all; never any that are not the store's."""
        if self.folder is None:
            return []
        pattern = "[0-9a-f]" * 32 if fingerprint is None else _directory(fingerprint)
        return sorted(self.folder.glob(f"{pattern}/*{suffix}"))

    def _abandoned(self):
        for path in self._paths(suffix=TEMPORARY):
            with contextlib.suppress(OSError):  # its writer has finished
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    yield path

    def _maintain(self, fingerprint):
        """Merge many small files into few, and keep the bound; one process at a time does it."""
        groups = {}
        for path, (size, _) in self._statuses(fingerprint).items():
            if size < self._largest_file / 2:
                groups.setdefault(size.bit_length() // 4, []).append(path)  # within a factor of 16
        groups = [group for group in groups.values() if len(group) >= _MERGE_AT]
        too_large = sum(size for size, _ in self._statuses().values()) > self.max_bytes
        if not groups and not too_large:
            return
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:  # another process is at it
            return
        except (OSError, NotImplementedError):  # a disk without locks: double work, no harm
            lock = None
        try:
            for group in groups:
                merge_files(group, fingerprint, self._largest_file)
            self._evict()
        finally:
            if lock is not None:
                lock.release()

    def _evict(self):
        for path in self._abandoned():
            remove_file(path)
        statuses = self._statuses()
        total = sum(size for size, _ in statuses.values())
        if total <= self.max_bytes:
            return
        oldest_first = sorted(statuses, key=lambda path: statuses[path][1])
        for path in oldest_first[:-1]:  # the newest has just been written, and will be read
            if total <= 0.9 * self.max_bytes:
                break
            if remove_file(path):
                total -= statuses[path][0]

    def _statuses(self, fingerprint=None):
        """Return {path: (bytes, time of last use)}."""
        statuses = {}
        for path in self._paths(fingerprint):
            with contextlib.suppress(OSError):  # removed since it was listed
                status = path.stat()
                statuses[path] = (status.st_size, status.st_mtime)
        return statuses


def _directory(fingerprint):
    """Return the name of a fingerprint's directory: a hash, since it may be any string."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=16).hexdigest()
