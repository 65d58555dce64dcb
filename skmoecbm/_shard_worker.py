"""What one worker does with one shard: read, decode, embed, write."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from skmoecbm._ahead import ahead
from skmoecbm._decoding import Unreadable, decode, file_bytes
from skmoecbm._shards import shard_rows, write_shard
from skmoecbm.backbones import load_backbone
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmError
from skmoecbm.images import image_key

__all__ = ["EncodingTask", "ShardWorker", "describe_backbone"]


@dataclass(frozen=True)
class EncodingTask:
    """What every worker of a run must know; travels to other processes and machines.

    Attributes
    ----------
    source : TableRows or DatasetRows
    plan : dict
    out : str
    device : str
    batch_size : int or "auto"
    n_threads : int
        That decode images while the model embeds others.
    on_error : {"raise", "missing"}
    """

    source: Any
    plan: dict
    out: str
    device: str
    batch_size: int
    n_threads: int
    on_error: str


def describe_backbone(settings, device):
    """Return the backbone as the plan holds it; runs where the workers will.

    Parameters
    ----------
    settings : dict
        `name`, `revision`, `resize` and `precision`, as `load_backbone` takes them.
    device : str
    """
    backbone = load_backbone(device=device, **settings)
    return {
        "asked": settings,
        "precision": backbone.precision,  # "auto" is decided once, not by each worker
        "dim": backbone.dim,
        "fingerprint": backbone.fingerprint,
        "identity": backbone.identity,
    }


class ShardWorker:
    """Embeds shards; holds the backbone from the first one on.

    Parameters
    ----------
    task : EncodingTask
    """

    def __init__(self, task):
        self.task = task
        self._backbone = None

    def __call__(self, batch):
        """Encode the shards of a batch of Ray Data: {"shard": array} to what came of each.

        A mistake of the user's is told, not raised: the error of a remote process would be buried
        in the machinery's own.
        """
        found = {"shard": [], "n_rows": [], "n_failed": [], "error": []}
        for shard in batch["shard"]:
            n_rows = n_failed = 0
            told = ""
            try:
                n_rows, n_failed = self.encode(int(shard))
            except SkmoecbmError as error:
                told = f"{type(error).__name__}: {error}"
            for name, value in zip(found, (shard, n_rows, n_failed, told), strict=True):
                found[name].append(value)
        return {name: np.array(values) for name, values in found.items()}

    def encode(self, shard):
        """Encode one shard and write it; return how many rows it has and how many failed."""
        task = self.task
        plan = task.plan
        backbone = self._load()
        batch_size = backbone.choose_batch_size(task.batch_size)
        start, stop = shard_rows(plan, shard)
        rows = np.full((stop - start, backbone.dim), np.nan, dtype=np.float32)
        keys, contents, reasons = [], [], []
        batch, at = [], []
        source = task.source.read(start, stop)
        # the next two batches are decoded in threads while the model is busy with this one
        with closing(ahead(self._decode, source, task.n_threads, 2 * batch_size)) as decoded:
            for key, content, image, reason in decoded:
                if reason is not None and task.on_error == "raise":
                    raise InputError(
                        f"image {key!r} cannot be read: {reason} Remove it, or pass "
                        "on_error='missing'."
                    )
                if image is not None:
                    batch.append(image)
                    at.append(len(keys))
                keys.append(key)
                contents.append(content)
                reasons.append(reason)
                if len(batch) == batch_size or (batch and len(keys) == stop - start):
                    rows[at] = backbone.embed_images(batch, batch_size)
                    batch, at = [], []
        if batch:  # the last rows may all have failed
            rows[at] = backbone.embed_images(batch, batch_size)
        if len(keys) != stop - start:
            raise InputError(
                f"The source gave {len(keys)} rows of shard {shard} where it had "
                f"{stop - start} before: its files have changed. Encode it to another folder."
            )
        write_shard(task.out, plan, shard, keys, contents, rows, reasons)
        return len(keys), sum(reason is not None for reason in reasons)

    def _decode(self, row):
        key, image = row
        value_range = self.task.plan["value_range"]
        value_range = None if value_range is None else tuple(value_range)
        content = None
        try:
            image = file_bytes(image)  # read once, for the key and the pixels
            content = image_key(image, value_range)
            image = self._load().shape(decode(image, value_range, None))
            return key, content, image, None
        except Unreadable as error:
            return key, content, None, str(error)
        except InputError as error:
            raise InputError(f"image {key!r} cannot be read: {error}") from error

    def _load(self):
        if self._backbone is None:
            planned = self.task.plan["backbone"]
            settings = {**planned["asked"], "precision": planned["precision"]}
            backbone = load_backbone(device=self.task.device, **settings)
            if backbone.fingerprint != planned["fingerprint"]:
                raise BackboneError(
                    f"{settings['name']!r} is another model here than the run began with. Pin it "
                    "with revision=, and put the same files on every machine."
                )
            self._backbone = backbone
        return self._backbone
