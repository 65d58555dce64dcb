"""Embeddings of images on disk, in the place of the images: what encoders and classifiers take."""

from pathlib import Path

import numpy as np

from skmoecbm._identity import identity_differences
from skmoecbm._shard_plan import PLAN, read_plan
from skmoecbm._shards import (
    embedding_matrix,
    finished_shards,
    iter_columns,
    need_parquet,
)
from skmoecbm.exceptions import InputError

__all__ = ["ImageEmbeddings"]


class ImageEmbeddings:
    """Images that were embedded before, row by row, in the place of the images themselves.

    Given to `ConceptEncoder`, `ExpertUnion` or a pipeline that begins with them, as the list of
    images would be: nothing is decoded or embedded, and the rows of the model that an encoder
    names are mapped from disk. Made by `skmoecbm.distributed.open_embeddings`.

    Parameters
    ----------
    folders : list of path
        What `skmoecbm.distributed.encode` wrote: the same images, each folder by another model.
    rows : slice or ndarray of int, default=slice(None)
        Which of the rows on disk.

    Attributes
    ----------
    keys : ndarray of shape (n,), str objects
        Path, or value of the key column, of each image.
    present : ndarray of shape (n,), bool
        False where the image could not be read, for any of the models.
    failed : DataFrame with columns `row`, `key` and `reason`
        Those images, by their row here.
    backbones : list of dict
        Of each model: what was `asked` for, `precision`, `dim`, `fingerprint` and `identity`.
    shape : tuple (n,)

    Notes
    -----
    Indexing gives `ImageEmbeddings` of some rows; by one integer its key. A run of rows next to
    each other (a slice of step 1) stays mapped; any other choice is read into memory when it is
    used. Pickles hold names of folders and row numbers, no embeddings, so that processes which
    see the same disk share the map.
    """

    ndim = 1

    def __init__(self, folders, rows=None):
        self.folders = [str(Path(folder).absolute()) for folder in folders]
        self._parts = [_Part(folder) for folder in self.folders]
        first = self._parts[0].plan
        for part in self._parts[1:]:
            if (part.plan["source"], part.plan["n_rows"]) != (first["source"], first["n_rows"]):
                raise InputError(
                    f"{self.folders[0]!r} and {part.folder!r} are not of the same images in the "
                    "same order. Encode one source with each model, and open these folders."
                )
        names = [part.plan["backbone"]["fingerprint"] for part in self._parts]
        if len(set(names)) < len(names):
            raise InputError(
                "Two of the folders are of the same model. Open one of them, or one per model."
            )
        self._rows = slice(0, first["n_rows"]) if rows is None else rows

    @property
    def shape(self):
        """Number of images, as a tuple."""
        if isinstance(self._rows, slice):
            return (self._rows.stop - self._rows.start,)
        return self._rows.shape

    def __len__(self):
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, key):
        """Return some rows; see the notes of the class."""
        # scikit-learn's _safe_indexing asks for X[rows, ...]
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1 and isinstance(self._rows, slice):
                first = self._rows.start
                return self._with(slice(first + start, first + max(start, stop)))
            return self._with(self._numbers()[key])
        key = np.asarray(key)
        if key.ndim == 0 and key.dtype.kind in "iu":
            return self.keys[int(key)]
        if key.ndim != 1 or (key.size and key.dtype.kind not in "iub"):
            raise InputError(
                "Embeddings are chosen by a slice, a list or array of row numbers, or a mask. "
                f"Got an array of shape {key.shape} and dtype {key.dtype}."
            )
        return self._with(self._numbers()[key if key.size else key.astype(np.intp)])

    def __iter__(self):
        """Iterate over the keys."""
        return iter(self.keys)

    def __repr__(self):
        """Return one line: rows, models, and how many are missing where no shard is read for it."""
        models = ", ".join(repr(part.name) for part in self._parts)
        missing = f", {n:,} of them missing" if (n := self._n_missing()) else ""
        return f"ImageEmbeddings({len(self):,} images{missing}; {models})"

    def __reduce__(self):
        """Pickle what it takes to open the same rows again."""
        return type(self), (self.folders, self._rows)

    @property
    def keys(self):
        """The keys of the images, an object array of str."""
        return self._parts[0].keys[self._rows]

    @property
    def present(self):
        """Which images could be read, a bool array."""
        there = np.ones(len(self), dtype=bool)
        for part in self._parts:
            there &= part.present[self._rows]
        return there

    @property
    def failed(self):
        """The images that could not be read, a DataFrame."""
        import pandas as pd

        known = {}
        for part in self._parts:
            known = {**part.failures, **known}
        numbers = self._numbers()
        at = np.flatnonzero(np.isin(numbers, list(known)))
        rows = [(i, *known[row]) for i, row in zip(at.tolist(), numbers[at].tolist(), strict=True)]
        return pd.DataFrame(rows, columns=["row", "key", "reason"])

    @property
    def backbones(self):
        """What is known of each model, a list of dict."""
        return [dict(part.plan["backbone"]) for part in self._parts]

    def rows_of(self, backbone):
        """Return the embeddings that a backbone would make, and which are there.

        Parameters
        ----------
        backbone : Backbone
            The precision may differ, as it may between the fit and the use of a model.

        Returns
        -------
        rows : ndarray of shape (n, d), float32
            L2-normalised; NaN where missing. Mapped from disk where the rows are a run.
        present : ndarray of shape (n,), bool

        Raises
        ------
        InputError
            If none of the folders is of this backbone.
        """
        told = []
        for part in self._parts:
            differences = identity_differences(part.plan["backbone"]["identity"], backbone.identity)
            if not differences:
                return part.matrix[self._rows], part.present[self._rows]
            told.append(f"those of {part.name!r} differ in {'; '.join(differences[:3])}")
        raise InputError(
            f"These embeddings are not of {backbone.name!r} as the encoder has it: "
            f"{'. '.join(told)}. Set the encoder's parameters to theirs, or encode the images with "
            "it: skmoecbm.distributed.encode(images, encoder, out)."
        )

    def _n_missing(self):
        """Return how many of the images are missing; None where shards must be read for it."""
        failing = [part for part in self._parts if part.n_failed]
        if all(part.failures_are_read for part in failing):
            return int((~self.present).sum()) if failing else 0
        whole = isinstance(self._rows, slice) and len(self) == self._parts[0].plan["n_rows"]
        return failing[0].n_failed if whole and len(failing) == 1 else None

    def _numbers(self):
        """Return the row numbers on disk."""
        if isinstance(self._rows, slice):
            return np.arange(self._rows.start, self._rows.stop)
        return self._rows

    def _with(self, rows):
        other = object.__new__(type(self))
        other.folders, other._parts, other._rows = self.folders, self._parts, rows
        return other


class _Part:
    """One folder, its parts read when they are asked for."""

    def __init__(self, folder):
        need_parquet()
        self.folder = folder
        self.plan = read_plan(folder)
        if self.plan is None:
            if not Path(folder).is_dir():
                raise InputError(
                    f"There is no folder {folder!r}. Name a folder that "
                    "skmoecbm.distributed.encode wrote."
                )
            raise InputError(
                f"{folder!r} has no {PLAN}. Name a folder that skmoecbm.distributed.encode wrote."
            )
        self._done = finished_shards(folder, self.plan)
        missing = self.plan["n_shards"] - len(self._done)
        if missing:
            raise InputError(
                f"{missing:,} of the {self.plan['n_shards']:,} shards in {folder!r} are not "
                "written yet. Call skmoecbm.distributed.encode again with the same arguments: it "
                "goes on where it stopped."
            )
        self._keys = self._matrix = self._failures = None

    @property
    def name(self):
        return self.plan["backbone"]["asked"]["name"]

    @property
    def n_failed(self):
        return sum(self._done.values())

    @property
    def failures_are_read(self):
        return self._failures is not None

    @property
    def matrix(self):
        if self._matrix is None:
            self._matrix = embedding_matrix(self.folder, self.plan)
        return self._matrix

    @property
    def keys(self):
        if self._keys is None:
            keys = np.empty(self.plan["n_rows"], dtype=object)
            for start, table in iter_columns(self.folder, self.plan, ["key"]):
                keys[start : start + len(table)] = table["key"].to_pylist()
            self._keys = keys
        return self._keys

    @property
    def failures(self):
        """{row: (key, why its image failed)}; only shards with failures are read."""
        if self._failures is None:
            shards = [shard for shard, n_failed in self._done.items() if n_failed]
            found = {}
            for start, table in iter_columns(self.folder, self.plan, ["key", "error"], shards):
                for row, cells in enumerate(table.to_pylist(), start):
                    if cells["error"] is not None:
                        found[row] = cells["key"], cells["error"]
            self._failures = found
        return self._failures

    @property
    def present(self):
        there = np.ones(self.plan["n_rows"], dtype=bool)
        there[list(self.failures)] = False
        return there
