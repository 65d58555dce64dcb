"""Embeddings by way of the store: only what is not there is embedded, and only once."""

import hashlib
import logging
import os
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import filelock
import numpy as np

from skmoecbm._ahead import n_decoders
from skmoecbm._image_embeddings import ImageEmbeddings
from skmoecbm._progress import progress
from skmoecbm.exceptions import InputError
from skmoecbm.images import as_image_list, image_keys, iter_images, warn_missing

__all__ = ["as_text_list", "count_rows", "image_rows", "text_key", "text_rows", "turn"]

# Embedded and stored under one hold of the lock: the most that a kill can cost, and the longest
# that another process with the same backbone and device waits before it is let in.
_CHUNK = 512
_CHUNK_BYTES = 64 * 2**20  # of rows: token rows are a thousand times as long as embeddings
_PASSES = 4

_thread_locks = {}

logger = logging.getLogger("skmoecbm")


def image_rows(
    backbone,
    store,
    X,
    *,
    device,
    value_range,
    on_error,
    batch_size,
    verbose,
    none_is_missing=False,
):
    """Return the embeddings of the images in `X`, and which of them are there.

    Parameters
    ----------
    backbone : Backbone
    store : EmbeddingStore
    X : sequence of n images, or ImageEmbeddings
    device : str
        Where the backbone runs; processes of one device take turns.
    value_range, on_error
        As in `skmoecbm.images.iter_images`.
    batch_size : int or "auto"
    verbose : bool
        Show the progress over the images that must be embedded, and tell of images given twice.
    none_is_missing : bool, default=False
        A row without an image (None) is missing, and no error whatever `on_error` says.

    Returns
    -------
    rows : ndarray of shape (n, d), float32
        L2-normalised; NaN where missing.
    present : ndarray of shape (n,), bool
    """
    if isinstance(X, ImageEmbeddings):
        return X.rows_of(backbone)
    images = as_image_list(X)
    failures = []
    keys = [None] * len(images)
    given = [i for i, image in enumerate(images) if not (none_is_missing and image is None)]
    for i, key in zip(
        given,
        image_keys(
            [images[i] for i in given],
            value_range=value_range,
            on_error=on_error,
            rows=given,
            failures=failures,
        ),
        strict=True,
    ):
        keys[i] = key
    there = [key for key in keys if key is not None]
    if verbose and len(there) > len(set(there)):
        logger.warning(
            "%s of %s images are identical to others, byte for byte, and are encoded once",
            f"{len(there) - len(set(there)):,}",
            f"{len(there):,}",
        )

    def embed(positions):
        size = backbone.choose_batch_size(batch_size)
        # On a GPU several passes go out before the rows of the first are fetched.
        taken = min(size * (_PASSES if device.startswith("cuda") else 1), _CHUNK)
        # Decoded whole: the JPEG decoder's own halving (`draft_size`) moves single embeddings by
        # more than 1e-3, even at ten times the network's input.
        decoded = iter_images(
            [images[i] for i in positions],
            value_range=value_range,
            on_error=on_error,
            rows=positions,
            failures=failures,
            # The next two parts, at the network's own size, while it is busy with this one.
            n_threads=n_decoders(),
            n_waiting=2 * taken,
            shape=backbone.shape,
        )
        with closing(decoded):
            for start in range(0, len(positions), taken):
                part = positions[start : start + taken]
                # `part` first: zip must not take a decoded image that it then drops
                pairs = zip(part, decoded, strict=False)
                batch = {i: image for i, image in pairs if image is not None}
                rows = backbone.embed_images(list(batch.values()), size)
                yield len(part), list(batch), rows

    rows, present = _stored(backbone, store, keys, embed, device, verbose, "image")
    told = {row for row, _ in failures}
    reasons = {keys[row]: reason for row, reason in failures if keys[row] is not None}
    failures += [(i, reasons[k]) for i, k in enumerate(keys) if k in reasons and i not in told]
    warn_missing(sorted(failures))
    return rows, present


def text_rows(backbone, store, texts, *, device, verbose=False):
    """Return the embeddings of texts, and which of them are there (None is not).

    Parameters and results are those of `image_rows`.
    """
    keys = [None if text is None else text_key(text) for text in texts]

    def embed(positions):
        yield len(positions), positions, backbone.embed_texts([texts[i] for i in positions])

    return _stored(backbone, store, keys, embed, device, verbose, "text")


def text_key(text):
    """Return the key of a text in the store."""
    return "text:" + _digest(text)


def count_rows(X, modality):
    """Return how many images or texts there are; raise if `X` holds something else."""
    if modality == "text":
        return len(as_text_list(X))
    return len(X if isinstance(X, ImageEmbeddings) else as_image_list(X))


def as_text_list(X):
    """Return texts as a list, one entry per row; None, NaN and blank texts become None.

    Parameters
    ----------
    X : list, tuple, 1-D array, pandas Series, or DataFrame or 2-D array with one column

    Raises
    ------
    InputError
        If `X` is none of these, is empty, or holds something else than texts.
    """
    shape = getattr(X, "shape", None)
    if (
        isinstance(X, str | ImageEmbeddings)
        or not hasattr(X, "__len__")
        or (shape is not None and len(shape) > 2)
    ):
        raise InputError(
            f"Expected a sequence of texts, got {type(X).__name__}. A single text goes in a list."
        )
    if shape is not None and len(shape) == 2:
        if shape[1] != 1:
            raise InputError(f"Expected one column of texts, got shape {tuple(shape)}; choose one.")
        X = np.asarray(X, dtype=object)[:, 0]
    texts = list(X)
    if not texts:
        raise InputError("Found 0 texts (shape (0,)) while a minimum of 1 is required.")
    for row, text in enumerate(texts):
        # NaN and pandas.NA are the values that are not equal to themselves
        if text is None or (not isinstance(text, str) and text is not True and _is_na(text)):
            texts[row] = None
        elif not isinstance(text, str):
            raise InputError(
                f"text {row:,} must be a str, or None where it is missing. "
                f"Got {type(text).__name__} instead."
            )
        elif not text.strip():
            texts[row] = None
        elif not _is_whole(text):
            raise InputError(
                f"text {row:,} holds half a character, which no file can: {text!r:.60}. Read the "
                "text again with the right encoding."
            )
    return texts


def _is_whole(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_na(value):
    import pandas as pd

    return bool(np.all(pd.isna(value)))


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _stored(backbone, store, keys, embed, device, verbose, unit):
    """Return (n, d) rows by key and which are there; `embed` yields those of given positions."""
    first = {}
    for position, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, position)
    unique = list(first)
    rows = np.full((len(unique), backbone.dim), np.nan, dtype=np.float32)

    row_bytes = 4 * backbone.dim
    most = max(_CHUNK_BYTES // row_bytes, 1)

    def look_up(wanted):
        missing = [wanted[:0]]
        for start in range(0, len(wanted), most):
            part = wanted[start : start + most]
            found, known = store.get(backbone.fingerprint, [unique[j] for j in part])
            if found.any():
                rows[part[found]] = known[found]
            missing.append(part[~found])
        return np.concatenate(missing)

    misses = look_up(np.arange(len(unique)))
    with progress(len(misses), unit=unit, name=backbone.name, verbose=verbose) as bar:
        step = min(_CHUNK, most)
        for start in range(0, len(misses), step):
            chunk = misses[start : start + step]
            with turn(store.folder, backbone.fingerprint, device):
                todo = look_up(chunk)  # another process may have been here while we waited
                bar.update(len(chunk) - len(todo))
                row_of = {first[unique[j]]: j for j in todo}
                done = []
                try:
                    with closing(embed(list(row_of))) as parts:
                        for count, positions, part in parts:
                            at = [row_of[i] for i in positions]
                            rows[at] = part
                            done += at
                            bar.update(count)
                finally:  # what is embedded is kept, whatever stopped us
                    if done:
                        where = [unique[j] for j in done]
                        label = getattr(backbone, "label", backbone.name)
                        store.put(backbone.fingerprint, where, rows[done], label=label)

    if len(unique) == len(keys):  # in the order of the keys, and each once
        return rows, ~np.isnan(rows[:, 0])
    row_of = {key: j for j, key in enumerate(unique)}
    out = np.full((len(keys), backbone.dim), np.nan, dtype=np.float32)
    given = np.array([i for i, key in enumerate(keys) if key is not None], dtype=np.intp)
    out[given] = rows[[row_of[keys[i]] for i in given]] if given.size else rows[:0]
    return out, ~np.isnan(out[:, 0])


@contextmanager
def turn(folder, fingerprint, device):
    """Let one worker of this machine at a time embed for a store, with a backbone, on a device.

    Without it two workers of a grid search would embed the same images at the same time.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    name = _digest(repr((str(folder), fingerprint, device, seen)))
    if folder is None:
        with _thread_locks.setdefault(name, threading.Lock()):
            yield
        return
    user = getattr(os, "getuid", lambda: 0)()
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"skmoecbm-{user}-{name}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield  # no place for locks: at worst an image is embedded twice
        return
    try:
        yield
    finally:
        lock.release()
