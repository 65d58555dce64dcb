"""Embeddings in Parquet files, one per shard of rows, and the one matrix that is made of them."""

import contextlib
import json
import os
import secrets
import time
from pathlib import Path

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = [
    "MATRIX",
    "SHARDS",
    "embedding_matrix",
    "finished_shards",
    "iter_columns",
    "need_parquet",
    "remove_abandoned",
    "shard_path",
    "shard_rows",
    "write_beside",
    "write_shard",
]

SHARDS = "shards"
MATRIX = "embeddings.npy"

_META = b"skmoecbm"
_TEMPORARY = ".tmp"
_ABANDONED = 3600  # seconds after which a half-written file has no writer any more


def need_parquet():
    """Return `pyarrow` and `pyarrow.parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Shards of embeddings are Parquet files, which need the package pyarrow. "
            "Run: pip install 'skmoecbm[ray]'"
        ) from error
    return pyarrow, pyarrow.parquet


@contextlib.contextmanager
def write_beside(path):
    """Give a path to write to that becomes `path` at the end, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{path.name}.{secrets.token_hex(8)}{_TEMPORARY}"
    try:
        yield temporary
        # a rename may reach the disk before the content does
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(out):
    """Remove what killed writers left behind; nothing that a living one may still be writing."""
    for path in [*Path(out).glob(f"*{_TEMPORARY}"), *(Path(out) / SHARDS).glob(f"*{_TEMPORARY}")]:
        with contextlib.suppress(OSError):  # its writer has finished, or another run removed it
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def shard_path(out, shard):
    """Return the file of a shard."""
    return Path(out) / SHARDS / f"shard-{shard:06d}.parquet"


def shard_rows(plan, shard):
    """Return the first row of a shard, and the row after its last."""
    start = shard * plan["shard_size"]
    return start, min(start + plan["shard_size"], plan["n_rows"])


def write_shard(out, plan, shard, keys, contents, rows, reasons):
    """Write one shard: all of it, or nothing.

    Parameters
    ----------
    out : path
    plan : dict
        As `skmoecbm._shard_plan.make_plan` returns it.
    shard : int
    keys : list of n str
    contents : list of n (str or None)
        `image_key` of each image; None where there was nothing to read.
    rows : ndarray of shape (n, d), float32
        NaN where an image failed.
    reasons : list of n (str or None)
        Why an image failed.
    """
    pyarrow, parquet = need_parquet()
    failed = np.array([reason is not None for reason in reasons])
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(rows.reshape(-1), type=pyarrow.float32()),
        rows.shape[1],
        mask=pyarrow.array(failed),
    )
    text = pyarrow.string()
    about = {
        "plan": plan["id"],
        "shard": shard,
        "first_row": shard_rows(plan, shard)[0],
        "n_failed": int(failed.sum()),
        "backbone": plan["backbone"],
        "skmoecbm": plan["skmoecbm"],
    }
    table = pyarrow.table(
        {
            "key": pyarrow.array(keys, type=text),
            "content": pyarrow.array(contents, type=text),
            "embedding": vectors,
            "error": pyarrow.array(reasons, type=text),
        }
    ).replace_schema_metadata({_META: json.dumps(about)})
    # Floats of embeddings do not compress, and each value is its own: a dictionary costs time.
    compression = {"key": "zstd", "content": "none", "error": "zstd"}
    compression["embedding.list.element"] = "none"
    with write_beside(shard_path(out, shard)) as temporary:
        parquet.write_table(
            table,
            temporary,
            compression=compression,
            use_dictionary=False,
            row_group_size=max(len(keys), 1),
            write_page_checksum=True,
        )


def finished_shards(out, plan):
    """Return {shard: how many of its images failed} of the shards of a plan that are written."""
    pyarrow, parquet = need_parquet()
    folder = Path(out) / SHARDS
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    found = {}
    for shard in range(plan["n_shards"]):
        path = shard_path(out, shard)
        if path.name not in there:
            continue
        try:
            metadata = parquet.read_metadata(path)
            about = json.loads((metadata.metadata or {}).get(_META, b"{}"))
        except (OSError, ValueError, pyarrow.ArrowException):  # damaged: written again
            continue
        start, stop = shard_rows(plan, shard)
        written = about.get("plan"), about.get("shard"), metadata.num_rows
        if written == (plan["id"], shard, stop - start):
            found[shard] = about["n_failed"]
    return found


def iter_columns(out, plan, columns, shards=None):
    """Yield (first row, table of some columns) shard by shard; damage is an error."""
    pyarrow, parquet = need_parquet()
    for shard in range(plan["n_shards"]) if shards is None else shards:
        path = shard_path(out, shard)
        try:
            table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"The shard {str(path)!r} cannot be read: {error}. Remove the file and call "
                "skmoecbm.distributed.encode again: it writes what is missing."
            ) from error
        yield shard_rows(plan, shard)[0], table


def embedding_matrix(out, plan):
    """Return the embeddings of all rows, (n, d) float32, as a map of a file.

    The file is made from the shards when it is first asked for, one shard in memory at a time;
    rows of images that failed are NaN.
    """
    path = Path(out) / MATRIX
    shape = (plan["n_rows"], plan["backbone"]["dim"])
    if not path.exists():
        with write_beside(path) as temporary:
            matrix = np.lib.format.open_memmap(temporary, "w+", dtype=np.float32, shape=shape)
            for start, table in iter_columns(out, plan, ["embedding"]):
                column = table["embedding"].combine_chunks()
                there = column.is_valid().to_numpy(zero_copy_only=False)
                part = np.full((len(column), shape[1]), np.nan, dtype=np.float32)
                part[there] = column.flatten().to_numpy().reshape(-1, shape[1])
                matrix[start : start + len(part)] = part
            matrix.flush()
            del matrix
    found = np.load(path, mmap_mode="r")
    if found.shape != shape or found.dtype != np.float32:
        raise InputError(
            f"{str(path)!r} has shape {found.shape} where the shards have {shape}. Remove the "
            "file: it is made again from the shards."
        )
    return found
