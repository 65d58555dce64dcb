"""joblib and pickle for use on one's own machine: small, whole, and free of training rows."""

import copy
import io
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from skmoecbm import ConceptEncoder, ExpertFeatures, GatedConceptBottleneckClassifier, JointTraining
from skmoecbm._ranges import concept_quantiles
from skmoecbm.datasets import make_lesions
from skmoecbm.features import ExpertBlock

N_ROWS, N_CLASSES, N_CONCEPTS, DIM = 10_015, 7, 350, 512


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ham10000_sized(rng, n):
    """Two experts of 350 concepts in 512 dimensions, seven classes: the size, not the images."""
    y = rng.choice(N_CLASSES, n, p=[0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01])
    y[:N_CLASSES] = range(N_CLASSES)
    blocks = []
    for name in ("clip", "biomedclip"):
        centres = 0.3 * rng.normal(size=(N_CLASSES, DIM))
        blocks.append(
            ExpertBlock(
                name=name,
                concepts=tuple(
                    f"a phrase of a usual length, number {j}" for j in range(N_CONCEPTS)
                ),
                present=np.ones(n, dtype=bool),
                embeddings=unit(centres[y] + rng.normal(size=(n, DIM))),
                texts=unit(rng.normal(size=(N_CONCEPTS, DIM))),
            )
        )
    return ExpertFeatures(blocks), y


@pytest.fixture(scope="module")
def fitted():
    features, y = ham10000_sized(np.random.default_rng(0), N_ROWS)
    model = GatedConceptBottleneckClassifier(cv=2, random_state=0)
    return model.fit(features, y), features


@pytest.mark.parametrize("dump", [pickle.dumps, None], ids=["pickle", "joblib"])
def test_a_model_of_ham10000s_size_stays_below_two_megabytes(fitted, dump, tmp_path):
    model, features = fitted
    path = tmp_path / "model"
    if dump is None:
        joblib.dump(model, path)
    else:
        path.write_bytes(dump(model))
    # with the concepts' embeddings that the two encoders of its pipeline hold
    embeddings = 2 * N_CONCEPTS * DIM * 4
    assert path.stat().st_size + embeddings < 2 * 2**20
    again = joblib.load(path) if dump is None else pickle.loads(path.read_bytes())
    some = features[:50]
    np.testing.assert_array_equal(again.decision_function(some), model.decision_function(some))


def test_a_pickle_holds_no_logits_of_training_rows_and_a_copy_all(fitted):
    model, _ = fitted
    assert not hasattr(pickle.loads(pickle.dumps(model)), "oof_logits_")
    assert copy.copy(model).oof_logits_ is model.oof_logits_
    np.testing.assert_array_equal(copy.deepcopy(model).oof_logits_, model.oof_logits_)
    assert copy.deepcopy(model).oof_logits_ is not model.oof_logits_


def test_a_pickle_keeps_the_ranges_of_the_concepts(fitted, tmp_path):
    model, _ = fitted
    joblib.dump(model, tmp_path / "model")
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        for mine, head, theirs in zip(
            again.concept_quantiles_, again.heads_, model.concept_quantiles_, strict=True
        ):
            assert mine is head.concept_quantiles_
            np.testing.assert_array_equal(mine, theirs)


def test_quantiles_take_half_the_room_only_where_nothing_is_lost():
    values = np.random.default_rng(0).normal(size=(300, 4))
    exact, rounded = values, values.astype(np.float32).astype(np.float64)
    assert concept_quantiles(exact, np.ones(300)).dtype == np.float64
    narrow = concept_quantiles(rounded, np.ones(300))
    assert narrow.dtype == np.float32 and np.isin(narrow, rounded).all()


class ReadsNames(pickle.Unpickler):
    """An unpickler that remembers which modules a pickle names."""

    def __init__(self, file):
        super().__init__(file)
        self.modules = set()

    def find_class(self, module, name):
        self.modules.add(module.partition(".")[0])
        return super().find_class(module, name)


@pytest.fixture(scope="module")
def pipeline():
    data = make_lesions(80, random_state=0)
    images, y = list(data.images), np.asarray(data.target)
    encoder = ConceptEncoder("demo-general", "lesions", cache_dir=None)
    model = Pipeline(
        [("encode", encoder), ("classify", GatedConceptBottleneckClassifier(random_state=0))]
    )
    return model.fit(images, y), images


@pytest.mark.parametrize(
    ("gate", "training"),
    [
        ("linear", "staged"),
        ("mlp", "staged"),
        ("laplace", "staged"),
        ("mlp", JointTraining(max_epochs=2)),
    ],
    ids=["linear", "mlp", "laplace", "joint"],
)
def test_nothing_in_a_pickle_is_of_torch_so_no_device_comes_along(gate, training):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 6)), rng.integers(0, 3, 60)
    experts = [("a", slice(0, 3)), ("b", slice(3, 6))]
    model = GatedConceptBottleneckClassifier(
        gate=gate, experts=experts, training=training, guard=False, random_state=0
    ).fit(X, y)
    reader = ReadsNames(io.BytesIO(pickle.dumps(model)))
    reader.load()
    assert reader.modules <= {"skmoecbm", "numpy", "sklearn", "builtins", "copyreg"}


def test_a_pipeline_goes_to_another_process_without_its_networks(pipeline, tmp_path):
    model, images = pipeline
    reader = ReadsNames(io.BytesIO(pickle.dumps(model)))
    reader.load()
    assert not reader.modules & {"torch", "open_clip", "torchvision"}
    joblib.dump((model, images), tmp_path / "model")
    script = (
        "import sys, joblib\n"
        "model, images = joblib.load(sys.argv[1])\n"
        "joblib.dump(model.predict_proba(images), sys.argv[2])\n"
    )
    files = [tmp_path / "model", tmp_path / "told"]
    subprocess.run([sys.executable, "-c", script, *files], check=True)
    np.testing.assert_array_equal(joblib.load(files[1]), model.predict_proba(images))
