"""Ray in two functions: where shards are mapped over workers that hold the backbone."""

from skmoecbm._shard_worker import ShardWorker, describe_backbone
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmError

__all__ = ["describe_on_ray", "map_on_ray", "need_ray"]


def need_ray():
    """Return `ray` with its data library."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "engine='ray' needs the package ray with its data library. "
            "Run: pip install 'skmoecbm[ray]', or pass engine='local'."
        ) from error
    return ray


def describe_on_ray(settings, device, resources):
    """Return `describe_backbone` as a worker of the cluster sees it, whose device may be another.

    Parameters
    ----------
    settings, device
        As there.
    resources : dict
        `num_cpus` and `num_gpus` of a worker.
    """
    ray = need_ray()

    def told():
        try:
            return describe_backbone(settings, device)
        except SkmoecbmError as error:
            return type(error).__name__, str(error)

    found = ray.get(ray.remote(**resources)(told).remote())
    if isinstance(found, tuple):
        raise (BackboneError if found[0] == "BackboneError" else InputError)(found[1])
    return found


def map_on_ray(task, shards, n_workers, resources, *, verbose):
    """Yield what `ShardWorker` returns for each shard, in any order.

    Ray starts a worker that died again and gives it the shard that it had; one block per shard,
    so that it loses no other.

    Parameters
    ----------
    task : EncodingTask
    shards : list of int
    n_workers : int or None
    resources : dict
        As in `describe_on_ray`.
    verbose : bool
        Let Ray tell what it does too.
    """
    ray = need_ray()
    if not ray.is_initialized():
        ray.init()  # the cluster of RAY_ADDRESS, or a new one on this machine
    if n_workers is None:
        there = ray.cluster_resources()
        room = [
            int(there.get(kind, 0) // asked)
            for kind, asked in (("CPU", resources["num_cpus"]), ("GPU", resources["num_gpus"]))
            if asked
        ]
        n_workers = max(min(room, default=1), 1)
    n_workers = min(n_workers, len(shards))
    rows = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards))
    rows.context.enable_progress_bars = rows.context.print_on_execution_start = verbose
    results = rows.map_batches(
        ShardWorker,
        fn_constructor_args=(task,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        **resources,
    )
    yield from results.iter_batches(batch_size=None)
