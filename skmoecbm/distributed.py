"""Embeddings of more images than one machine should make: shards on disk, Ray, resumable.

The work is cut into shards of rows, each embedded by one worker and written as one Parquet file,
whole or not at all. A worker that dies costs the shard it was at, a run that is stopped goes on
with the shards that are not there. Every worker must see `out` and the images under the same
paths: one machine, or a shared disk.
"""

import os
import warnings
from pathlib import Path

from skmoecbm import __version__
from skmoecbm._decoding import check_value_range
from skmoecbm._image_embeddings import ImageEmbeddings
from skmoecbm._progress import progress
from skmoecbm._ray_map import describe_on_ray, map_on_ray, need_ray
from skmoecbm._shard_plan import keep_plan, make_plan, read_plan
from skmoecbm._shard_sources import find_source
from skmoecbm._shard_worker import EncodingTask, ShardWorker, describe_backbone
from skmoecbm._shards import MATRIX, finished_shards, need_parquet, remove_abandoned, shard_rows
from skmoecbm._validation import check_choice, check_number, parameter_error
from skmoecbm.encoder import ConceptEncoder
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmWarning

__all__ = ["ImageEmbeddings", "encode", "open_embeddings"]

SHARD_SIZE = 1024
FAILED = "failed.csv"


def encode(
    source,
    encoder,
    out,
    *,
    image_column="image",
    key_column=None,
    root=None,
    engine="ray",
    n_workers=None,
    cpus_per_worker=1,
    gpus_per_worker=0,
    shard_size=None,
    on_error="missing",
    retry_failed=False,
    verbose=0,
):
    """Embed images of any number into Parquet shards; called again, go on where it stopped.

    Parameters
    ----------
    source : folder, list of paths, Parquet file(s) or datasets.Dataset
        A folder of images (searched with sub-folders), a list of their paths, a ".parquet" file,
        a folder or a list of such, or one split of a Hugging Face data set.
    encoder : ConceptEncoder
        Its backbone, revision, resize, precision, value_range, batch_size and device are used; it
        need not be fitted. One run is one model: encode each expert into a folder of its own.
    out : path
        Folder to write to; seen by every worker.
    image_column : str, default="image"
        In tables: the column of paths, of the bytes of image files, or of Hugging Face's images.
    key_column : str, default=None
        In tables: what names a row. None takes the path, or the file and the row's number. Of a
        folder, keys are paths relative to it; of a list, the paths as they are given.
    root : path, default=None
        Folder that relative paths in a list or column start from; None is the current one.
    engine : {"ray", "local"}, default="ray"
        `"ray"` maps the shards over the Ray cluster that this process is connected to
        (`ray.init`), or a new one on this machine; `"local"` does the same work, into the same
        files, in this process, without Ray.
    n_workers : int, default=None
        Workers of Ray, each with a copy of the model; None is as many as the cluster has room for.
    cpus_per_worker, gpus_per_worker : number, default=1, 0
        What each worker takes of the cluster; as many threads decode images in each.
    shard_size : int, default=None
        Rows of a shard, the most that a killed worker loses; None is 1,024, or what the run began
        with.
    on_error : {"missing", "raise"}, default="missing"
        An image that cannot be read is listed with the reason, and a warning at the end says how
        many there are; or it stops the run.
    retry_failed : bool, default=False
        Write the shards again that hold images which could not be read.
    verbose : int, default=0
        1 shows the progress.

    Returns
    -------
    ImageEmbeddings
        What `open_embeddings(out)` returns.

    Raises
    ------
    InputError
        If a parameter is bad, `out` holds another run, or Ray or pyarrow is not installed.
    BackboneError
        If the model cannot be had, or is another one on some worker.

    Notes
    -----
    `out` holds `plan.json` (how many rows, which shards, which model), `shards/*.parquet` with
    the columns `key`, `content` (`skmoecbm.images.image_key`), `embedding` (a list of d float32,
    L2-normalised; null where the image failed) and `error`, and `failed.csv`. The metadata of
    every shard says which model made it.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from skmoecbm import ConceptEncoder
    >>> from skmoecbm.datasets import make_lesions
    >>> from skmoecbm.distributed import encode
    >>> folder = tempfile.TemporaryDirectory()
    >>> for i, image in enumerate(make_lesions(3, random_state=0).images):
    ...     Image.fromarray(image).save(f"{folder.name}/{i}.png")
    >>> encoder = ConceptEncoder("demo-general", "lesions")
    >>> X = encode(folder.name, encoder, f"{folder.name}/out", engine="local")
    >>> X, list(X.keys)
    (ImageEmbeddings(3 images; 'demo-general'), ['0.png', '1.png', '2.png'])
    >>> encoder.fit(X).transform(X).shape == (3, encoder.n_concepts_)
    True
    >>> folder.cleanup()
    """
    _check(encoder, engine, n_workers, cpus_per_worker, gpus_per_worker, shard_size, on_error)
    need_parquet()
    if engine == "ray":
        need_ray()
    out = Path(out).expanduser().absolute()
    rows = find_source(source, image_column=image_column, key_column=key_column, root=root)
    if not rows.n_rows:
        raise InputError("The source has no rows. Give one image at least.")
    before = read_plan(out)
    resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
    device = encoder.device
    if engine == "ray" and device == "auto" and not gpus_per_worker:
        device = "cpu"  # what Ray gave the workers, whatever this process sees
    plan = make_plan(
        rows,
        _backbone_of(encoder, before, device, resources if engine == "ray" else {}),
        shard_size=int(shard_size or (before["shard_size"] if before else SHARD_SIZE)),
        value_range=check_value_range(encoder.value_range),
        version=__version__,
    )
    keep_plan(out, plan)
    remove_abandoned(out)
    done = finished_shards(out, plan)
    todo = [
        shard
        for shard in range(plan["n_shards"])
        if shard not in done or (retry_failed and done[shard])
    ]
    if todo:
        (out / MATRIX).unlink(missing_ok=True)  # it is made of all shards
        task = EncodingTask(
            source=rows.placed(out, plan["shard_size"]),
            plan=plan,
            out=str(out),
            device=device,
            batch_size=encoder.batch_size,
            n_threads=max(int(cpus_per_worker), 1),
            on_error=on_error,
        )
        if engine == "ray":
            results = map_on_ray(task, todo, n_workers, resources, verbose=bool(verbose))
        else:
            worker = ShardWorker(task)
            results = (worker({"shard": [shard]}) for shard in todo)
        _collect(results, plan, todo, verbose)
        (out / MATRIX).unlink(missing_ok=True)  # made by who opened the folder meanwhile
    found = open_embeddings(out)
    failed = found.failed
    failed.to_csv(out / FAILED, index=False)
    if len(failed):
        first = failed.iloc[0]
        warnings.warn(
            f"{len(failed):,} of {len(found):,} image(s) cannot be read and count as missing; the "
            f"first: image {first['key']!r}: {first['reason']} All are listed in "
            f"{str(out / FAILED)!r}.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    return found


def open_embeddings(out, *more):
    """Return embedded images, to be given to encoders and pipelines in the place of the images.

    Parameters
    ----------
    out, *more : path
        Folders that `encode` wrote. Several are of the same images in the same order, each by
        another model: the experts of an `ExpertUnion` each find their own.

    Returns
    -------
    ImageEmbeddings

    Raises
    ------
    InputError
        If a folder holds no embeddings or not all yet, or the folders do not fit together.

    Notes
    -----
    What is mapped is `embeddings.npy`, made beside the shards when it is first needed: 4 bytes a
    number, so 2 GB for a million images of width 512. It may be removed at any time.

    Examples
    --------
    >>> from skmoecbm.distributed import open_embeddings
    >>> open_embeddings("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    skmoecbm.exceptions.InputError: ... Name a folder that skmoecbm.distributed.encode wrote.
    """
    return ImageEmbeddings([out, *more])


def _check(encoder, engine, n_workers, cpus, gpus, shard_size, on_error):
    if not isinstance(encoder, ConceptEncoder):
        raise parameter_error(
            "encode",
            "encoder",
            "a ConceptEncoder; encode the experts of a union one by one",
            encoder,
        )
    if encoder.modality != "image":
        raise parameter_error("encode", "encoder", "of modality 'image'", encoder)
    encoder._check_parameters()
    check_choice("encode", "engine", engine, ("ray", "local"))
    check_choice("encode", "on_error", on_error, ("missing", "raise"))
    check_number("encode", "cpus_per_worker", cpus, low=0)
    check_number("encode", "gpus_per_worker", gpus, low=0)
    for name, value in (("n_workers", n_workers), ("shard_size", shard_size)):
        if value is not None:
            check_number("encode", name, value, low=1, integer=True)


def _backbone_of(encoder, before, device, resources):
    """Return the backbone as plans hold it, from the plan that is there where it is of this one."""
    name = encoder.backbone
    kind, _, rest = name.partition(":")
    if kind == "local-dir":  # a worker may start in another folder
        name = f"local-dir:{os.path.abspath(rest)}"
    settings = {
        "name": name,
        "revision": encoder.revision,
        "resize": encoder.resize,
        "precision": encoder.precision,
    }
    if before and before["backbone"]["asked"] == settings:
        return before["backbone"]  # workers see to it that it is still the same
    if resources.get("num_gpus"):  # this process may have none
        return describe_on_ray(settings, device, resources)
    return describe_backbone(settings, device)


def _collect(results, plan, todo, verbose):
    """Take in what came of each shard; raise what a worker told."""
    total = sum(stop - start for start, stop in (shard_rows(plan, shard) for shard in todo))
    with progress(
        total, unit="image", name=plan["backbone"]["asked"]["name"], verbose=bool(verbose)
    ) as bar:
        for result in results:
            for told in result["error"]:
                if told:
                    kind, _, message = str(told).partition(": ")
                    raise (BackboneError if kind == "BackboneError" else InputError)(message)
            bar.update(int(sum(result["n_rows"])))
