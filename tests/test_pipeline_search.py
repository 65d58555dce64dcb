"""`GridSearchCV` over a pipeline: no image is encoded twice, whatever is searched."""

import copy
import os
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    GatedConceptBottleneckClassifierCV,
)
from skmoecbm.concepts import TopKConcepts
from skmoecbm.store import EmbeddingStore
from tests.backbone_fixtures import write_clip

N_IMAGES = 18
WORDS = {"mel": ["red", "blue-white veil", "round"], "nv": ["brown", "dots"]}
FEW = {"mel": ["red", "hair"], "nv": ["brown"]}


class LoggingEncoder(ConceptEncoder):
    """Writes down what its backbone embeds: a count in this process would miss the workers'."""

    def __init__(self, backbone, concepts, *, select=None, cache_dir="auto", log=None):
        super().__init__(backbone, concepts, select=select, cache_dir=cache_dir, batch_size=4)
        self.log = log

    def _load(self, to_fit=False):
        backbone = copy.copy(super()._load(to_fit=to_fit))
        embed = backbone.embed_images

        def logged(images, batch_size):
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {len(images)}\n")
            return embed(images, batch_size)

        backbone.embed_images = logged
        return backbone


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny clip"
    write_clip(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def counted(clip_name, tmp_path, monkeypatch):
    """Return an encoder's settings, and a function that gives images embedded by process."""
    monkeypatch.setenv("SKMOECBM_CACHE", str(tmp_path / "cache"))
    EmbeddingStore(None).clear()  # other tests of this process embed the same noise
    log = tmp_path / "log"

    def embedded():
        counts = Counter()
        for line in log.read_text().splitlines():
            process, count = line.split()
            counts[process] += int(count)
        return counts

    return (clip_name, str(log)), embedded


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9, 12, 3)).astype(np.uint8) for _ in range(N_IMAGES)]
    return images, np.array(["mel", "nv"] * (N_IMAGES // 2))


GRID = {
    "loggingencoder__concepts": [WORDS, FEW],
    "loggingencoder__select": [None, TopKConcepts(1)],
    "conceptbottleneckclassifier__alpha": [1.0, 10.0],
}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_no_image_is_encoded_twice_by_any_number_of_processes(counted, pictures, n_jobs):
    (name, log), embedded = counted
    model = make_pipeline(LoggingEncoder(name, WORDS, log=log), ConceptBottleneckClassifier())
    search = GridSearchCV(model, GRID, cv=3, n_jobs=n_jobs, error_score="raise").fit(*pictures)
    assert sum(embedded().values()) == N_IMAGES
    search.predict(pictures[0])
    assert sum(embedded().values()) == N_IMAGES


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_without_a_folder_each_process_encodes_no_image_twice(counted, pictures, n_jobs):
    (name, log), embedded = counted
    encoder = LoggingEncoder(name, WORDS, cache_dir=None, log=log)
    model = make_pipeline(encoder, ConceptBottleneckClassifier())
    search = GridSearchCV(model, GRID, cv=3, n_jobs=n_jobs, refit=False, error_score="raise")
    search.fit(*pictures)
    assert len(embedded()) <= n_jobs and set(embedded().values()) <= set(range(1, N_IMAGES + 1))
    if n_jobs == 1:
        assert sum(embedded().values()) == N_IMAGES


def test_a_search_at_the_end_of_a_pipeline_encodes_no_image_twice(counted, pictures):
    (name, log), embedded = counted
    search = GatedConceptBottleneckClassifierCV(param_grid={"head__alpha": [1.0, 9.0]}, cv=3)
    model = make_pipeline(LoggingEncoder(name, WORDS, log=log), search).fit(*pictures)
    assert sum(embedded().values()) == N_IMAGES
    assert model[-1].best_estimator_.classes_.tolist() == ["mel", "nv"]
