"""A real Ray of processes on this machine: encoding, killed workers, joblib; and Dask's joblib."""

import os
import signal
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import GridSearchCV, cross_val_predict

from skmoecbm import (
    BackboneError,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    InputError,
)
from skmoecbm._ray_map import describe_on_ray
from skmoecbm._shard_worker import describe_backbone
from skmoecbm.backbones import load_backbone
from skmoecbm.datasets import make_lesions
from skmoecbm.distributed import encode

# one of the images is damaged, which every run tells
pytestmark = pytest.mark.filterwarnings("ignore:1 of .* cannot be read")

N = 120


def lesion_encoder(**options):
    return ConceptEncoder("demo-general", "lesions", cache_dir=None, **options)


@pytest.fixture(scope="module")
def ray_of_two():
    """Ray with two workers, on the loopback address only."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'skmoecbm[ray]'")
    pytest.importorskip("ray.data", reason="needs Ray's data library")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(make_lesions(N, random_state=0).images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "out"
    return encode(folder, lesion_encoder(), out, engine="local", shard_size=3)


def rows_of(X):
    return X.rows_of(load_backbone("demo-general"))[0]


def workers():
    """Return the process ids of Ray's workers that descend from this process (Linux)."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue

    def ours(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return [pid for pid in found if ours(pid)]


def test_a_killed_worker_loses_nothing(ray_of_two, folder, undisturbed, tmp_path):
    out, killed = tmp_path / "out", []

    def kill():
        for _ in range(20_000):
            done = len(list((out / "shards").glob("*.parquet")))
            # looking through all processes is costly: not before there is something to kill
            at_work = workers() if done >= 2 else []
            if at_work:
                os.kill(at_work[0], signal.SIGKILL)
                killed.append(done)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    X = encode(folder, lesion_encoder(), out, shard_size=3)
    killer.join()
    assert killed and killed[0] < 41, "the worker was killed amid the work of 41 shards"
    np.testing.assert_array_equal(rows_of(X), rows_of(undisturbed))
    assert X.keys.tolist() == undisturbed.keys.tolist()
    assert X.failed.equals(undisturbed.failed) and len(X.failed) == 1


def test_mistakes_of_the_user_come_back_as_they_are(ray_of_two, folder, tmp_path):
    with pytest.raises(InputError, match=r"^image 'damaged.png' cannot be read: .*Remove it"):
        encode(folder, lesion_encoder(), tmp_path / "out", n_workers=1, on_error="raise")


def test_a_worker_says_which_model_it_has(ray_of_two):
    asked = {"name": "demo-general", "revision": None, "resize": "pad", "precision": "auto"}
    resources = {"num_cpus": 1, "num_gpus": 0}
    assert describe_on_ray(asked, "cpu", resources) == describe_backbone(asked, "cpu")
    with pytest.raises(BackboneError, match="no-such-model"):
        describe_on_ray({**asked, "name": "no-such-model"}, "cpu", resources)


@pytest.fixture(scope="module")
def problem(undisturbed):
    """Features of embeddings on disk, and labels that one can learn."""
    X = undisturbed[undisturbed.present]
    features = lesion_encoder().fit(X).transform(X)
    return features, make_lesions(N, random_state=0).target


def searched(features, y, n_jobs):
    grid = {"alpha": [0.1, 10.0], "prior": ["class", None]}
    search = GridSearchCV(ConceptBottleneckClassifier(), grid, cv=2, n_jobs=n_jobs)
    return search.fit(features, y).cv_results_


def out_of_fold(features, y, n_jobs):
    # scikit-learn hands the numbers of the classes on, which no prior of names can match
    model = ConceptBottleneckClassifier(alpha=1.0, prior=None)
    return cross_val_predict(model, features, y, cv=3, method="decision_function", n_jobs=n_jobs)


def mixture(features, y, n_jobs):
    """Fit two experts, their heads and folds each in a process of its own; return its logits."""
    (block,) = features.blocks
    both = ExpertFeatures([block, block.pick(np.arange(0, 12, 2)).rename("half")])
    model = GatedConceptBottleneckClassifier(random_state=0, n_jobs=n_jobs).fit(both, y)
    return model.decision_function(both), model.oof_logits_


@pytest.fixture(scope="module")
def one_by_one(problem):
    return searched(*problem, 1), out_of_fold(*problem, 1), mixture(*problem, 1)


def check_same(problem, one_by_one):
    found = searched(*problem, 2)
    names = [name for name in found if name.startswith(("param", "split", "rank"))]
    for name in names:
        np.testing.assert_array_equal(found[name], one_by_one[0][name])
    np.testing.assert_array_equal(out_of_fold(*problem, 2), one_by_one[1])
    for logits, expected in zip(mixture(*problem, 2), one_by_one[2], strict=True):
        np.testing.assert_array_equal(logits, expected)


def test_search_and_out_of_fold_fits_on_ray(ray_of_two, problem, one_by_one):
    from ray.util.joblib import register_ray

    register_ray()
    with joblib.parallel_config(backend="ray"):
        check_same(problem, one_by_one)


def test_search_and_out_of_fold_fits_on_dask(problem, one_by_one):
    distributed = pytest.importorskip("distributed", reason="needs Dask: 'skmoecbm[dask]'")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        check_same(problem, one_by_one)
