"""What a run over many images is going to write: decided once, kept in `plan.json`."""

import hashlib
import json
from pathlib import Path

from skmoecbm._shards import SHARDS, write_beside
from skmoecbm.exceptions import FormatError, InputError

__all__ = ["PLAN", "keep_plan", "make_plan", "read_plan"]

PLAN = "plan.json"
FORMAT = "skmoecbm-embeddings-parquet"
VERSION = 1


def make_plan(source, backbone, *, shard_size, value_range, version):
    """Return what decides every row of a run, as plain values.

    Parameters
    ----------
    source : TableRows or DatasetRows
    backbone : dict
        As `skmoecbm._shard_worker.describe_backbone` returns it.
    shard_size : int
    value_range : (low, high) or None
    version : str
        Of this package; kept, and no part of the identity.
    """
    decided = {
        "source": source.digest,
        "n_rows": source.n_rows,
        "shard_size": shard_size,
        "fingerprint": backbone["fingerprint"],
        "value_range": None if value_range is None else list(map(float, value_range)),
    }
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    plan = {
        "format": FORMAT,
        "format_version": VERSION,
        "id": digest,
        **decided,
        "n_shards": -(-source.n_rows // shard_size),
        "backbone": backbone,
        "skmoecbm": version,
    }
    return json.loads(json.dumps(plan))


def read_plan(out):
    """Return the plan of a folder, or None where there is none.

    Raises
    ------
    FormatError
        If the file is damaged, or was written by a later version.
    """
    path = Path(out) / PLAN
    try:
        plan = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} cannot be read: {error}. Encode again.") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise FormatError(f"{str(path)!r} is no plan of skmoecbm.distributed.encode.")
    if plan.get("format_version") != VERSION:
        raise FormatError(
            f"{str(path)!r} has format version {plan.get('format_version')}; this skmoecbm reads "
            f"{VERSION}. Update it: pip install --upgrade skmoecbm."
        )
    return plan


def keep_plan(out, plan):
    """Write a plan; where there is one already, see to it that it would write the same rows.

    Raises
    ------
    InputError
        If the folder holds the embeddings of another run, or something else.
    """
    out = Path(out)
    before = read_plan(out)
    if before is None:
        if (out / SHARDS).exists():
            raise InputError(
                f"{str(out)!r} has shards and no {PLAN}. Name an empty folder, or a new one."
            )
        with write_beside(out / PLAN) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        return
    if before["id"] == plan["id"]:
        return
    words = {
        "source": "the images, their order or where they are",
        "n_rows": "how many images there are",
        "shard_size": "shard_size",
        "fingerprint": "the model, its revision, resize or precision",
        "value_range": "value_range",
    }
    changed = [said for name, said in words.items() if before.get(name) != plan[name]]
    raise InputError(
        f"{str(out)!r} holds the embeddings of another run; what differs: {'; '.join(changed)}. "
        "Name another folder, or set this back to go on with that run."
    )
