"""Small fitted models of every kind that can be saved: what the fuzz suite and tool mutate."""

import numpy as np
import pandas as pd

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ConstantGate,
    ExpertFeatures,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    GaussianGate,
    LaplaceGate,
    LinearGate,
    MLPGate,
    SkmoecbmWarning,
    calibrate_sets,
    edit,
    tune_thresholds,
)
from skmoecbm._gating import GateState
from skmoecbm._vectors import ConceptVectors
from skmoecbm.concepts import TopKConcepts, load_concepts
from skmoecbm.datasets import make_lesions
from skmoecbm.moe import (
    Balancing,
    CrossModalMoEClassifier,
    MiniBatches,
    MultiTimeAttention,
    SparseMoEClassifier,
    TextTokenEncoder,
    TokenEncoder,
    TokenFeatures,
    TokenUnion,
    pack_series,
)

__all__ = ["BASES"]

_EXPERTS = [("left", slice(0, 3)), ("right", [3, 4, 5, 6])]


def _table(n=60, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, 7)) + rng.normal(size=(n_classes, 7))[y]
    return X, np.array(["mel", "nv", "bcc"])[y]


def _gated(gate="linear", **settings):
    settings = {"guard": False, "specialize": False, "random_state": 0, "cv": 3, **settings}
    head = ConceptBottleneckClassifier(alpha=1.0)
    X, y = _table()
    return GatedConceptBottleneckClassifier(head, gate, experts=_EXPERTS, **settings).fit(X, y)


def _single():
    X, y = _table(n_classes=2)
    model = ConceptBottleneckClassifier(alpha=1.0, target_prevalence={"mel": 0.2})
    return model.fit(pd.DataFrame(X, columns=[f"concept {i}" for i in range(7)]), y)


def _features():
    X, y = _table()
    names = [f"word {i}" for i in range(7)]
    features = ExpertFeatures.from_similarities(
        {"left": (X[:, :3], names[:3]), "right": (X[:, 3:], names[3:])},
        incidence={"left": np.eye(3), "right": np.eye(4, 3)},
        class_keys=["mel", "nv", "bcc"],
    )
    model = GatedConceptBottleneckClassifier(pool="prob", gate=LinearGate(top_k=1), guard=False)
    return model.fit(features, y).without("left")


def _one_expert():
    model = _gated("uniform", class_weight={"mel": 2.0, "nv": 1.0, "bcc": 1.0})
    model.gate_state_ = GateState("expert", {"index": np.array(1)})
    return model


def _with_sets():
    X, y = _table(seed=1)
    groups = [f"lesion-{i // 2}" for i in range(len(y))]
    return calibrate_sets(_gated(), X, y, groups=groups, class_conditional=True)


def _edited():
    return edit(_gated(ConstantGate(), pool="sum"), forbid="x3")


def _multilabel():
    X, y = _table()
    Y = pd.DataFrame({"a": y == "mel", "b": X[:, 0] > 0, "c": X[:, 1] > 0.2}).astype(int)
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0),
        MLPGate(hidden=3, max_iter=3),
        experts=_EXPERTS,
        guard=False,
        gate_input="disagreement",
        cv=3,
        random_state=0,
    ).fit(X, Y)
    return tune_thresholds(model, X, Y)


def _encoder():
    vectors = ConceptVectors(
        names=("blue", "veil"),
        vectors=np.eye(2, 64, dtype=np.float32),
        offsets=np.zeros(2),
        mix=np.array([1.0, 0.5]),
        table=pd.DataFrame({"concept": ["blue", "veil"], "auroc": [0.8, np.nan], "n": [3, 4]}),
        dropped={"dots": "too few images"},
    )
    concepts = {"mel-like": ["blue", "veil"], "nv-like": ["round shape"]}
    return ConceptEncoder(
        "demo-general",
        concepts,
        concept_vectors=vectors,
        cache_dir=None,
        templates=["a photo of {}"],
        value_range=(0, 1),
    )


def _fitted_encoder():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkmoecbmWarning)  # that the demo knows few words
        return _encoder().fit([np.zeros((8, 8, 3), dtype=np.uint8)])


def _pipeline():
    from sklearn.pipeline import Pipeline

    data = make_lesions(60, random_state=0)
    bank = load_concepts("lesions")
    union = ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", bank, cache_dir=None)),
            (
                "structures",
                ConceptEncoder("demo-structures", bank, select=TopKConcepts(2), cache_dir=None),
            ),
        ]
    )
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), random_state=0, cv=3
    )
    steps = [("experts", union), ("classifier", model)]
    return Pipeline(steps).fit(list(data.images), np.asarray(data.target))


def _foreign():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    heads = (LogisticRegression(), RandomForestClassifier(3, max_depth=2, random_state=0))
    experts = [(name, head, columns) for (name, columns), head in zip(_EXPERTS, heads, strict=True)]
    model = GatedConceptBottleneckClassifier(experts=experts, guard=False, cv=3, random_state=0)
    return model.fit(*_table())


def _sparse(many_labels=False, **settings):
    X, y = _table()
    X[::5, :3] = np.nan
    if many_labels:
        y = pd.DataFrame({"a": y == "mel", "b": X[:, 4] > 0}).astype(int)
    settings = {"n_experts": 3, "expert_hidden": 4, "random_state": 0, **settings}
    training = MiniBatches(max_epochs=3)
    return SparseMoEClassifier(modalities=dict(_EXPERTS), training=training, **settings).fit(X, y)


def _sparse_series():
    X, y = _table()
    rng = np.random.default_rng(0)
    series = [(rng.uniform(0, 9, n), rng.normal(size=(n, 2))) for n in rng.integers(1, 5, len(X))]
    series[0] = None
    reads = MultiTimeAttention(3, n_frequencies=2, sharpness=(4.0, 1.0), n_variables=2)
    return SparseMoEClassifier(
        n_experts=2,
        expert_hidden=4,
        modalities={"image": slice(0, 7), "vitals": slice(7, None)},
        time_series={"vitals": reads},
        training=MiniBatches(max_epochs=2),
        random_state=0,
    ).fit(np.hstack([X, pack_series(series)]), y)


def _sparse_pipeline():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = _table(n_classes=2)
    training = MiniBatches(max_epochs=2, early_stopping=False)
    last = SparseMoEClassifier(n_experts=2, top_k=1, expert_hidden=4, training=training)
    return make_pipeline(StandardScaler(), last).fit(X, y)


def _cross(**settings):
    X, y = _table()
    rng = np.random.default_rng(0)
    words = [rng.standard_normal((2 + i % 3, 2)) if i % 4 else None for i in range(len(y))]
    features = TokenFeatures({"image": X[:, :6].reshape(len(y), 2, 3), "text": words})
    training = MiniBatches(max_epochs=3)
    settings = {"n_experts": 3, "width": 4, "expert_hidden": 4, "random_state": 0, **settings}
    return CrossModalMoEClassifier(training=training, **settings).fit(features, y)


def _cross_table(**settings):
    X, y = _table()
    training = MiniBatches(max_epochs=2, early_stopping=False)
    settings = {"n_experts": 2, "top_k": 1, "width": 4, "expert_hidden": 4, **settings}
    return CrossModalMoEClassifier(training=training, **settings).fit(X, y)


def _tokens():
    from sklearn.pipeline import Pipeline

    image = TokenEncoder("demo-general", grid=1, value_range=(0, 1), cache_dir=None)
    text = TextTokenEncoder("demo-structures", max_length=9, cache_dir=None)
    films = np.random.default_rng(0).random((12, 20, 20))
    records = [(film, "hair" if i % 3 else None) for i, film in enumerate(films)]
    training = MiniBatches(max_epochs=2, early_stopping=False)
    last = CrossModalMoEClassifier(
        n_experts=2, top_k=1, width=4, expert_hidden=4, training=training
    )
    union = TokenUnion([("image", image), ("text", text)])
    return Pipeline([("tokens", union), ("last", last)]).fit(records, np.arange(12) % 2)


#: name -> function that returns a fitted model; one more line is one more kind of model.
BASES = {
    "single": _single,
    "uniform": lambda: _gated("uniform"),
    "linear": lambda: _gated(LinearGate(top_k=2)),
    "gaussian": lambda: _gated(GaussianGate()),
    "laplace": lambda: _gated(LaplaceGate(), gate_input="similarities"),
    "mlp": lambda: _gated(MLPGate(hidden=3, max_iter=3)),
    "gate columns": lambda: GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=_EXPERTS[:1], gate_input=[5, 6]
    ).fit(*_table()),
    "one expert": _one_expert,
    "features": _features,
    "sets": _with_sets,
    "edited": _edited,
    "multilabel": _multilabel,
    "encoder": _fitted_encoder,
    "pipeline": _pipeline,
    "heads of others": _foreign,
    "sparse": lambda: _sparse(gating="laplace", noise=True, balancing=Balancing(z_loss=0.1)),
    "sparse disjoint": lambda: _sparse(router="disjoint", gating="gaussian", missing="learned"),
    "sparse masked": lambda: _sparse(router="per_modality").without("left"),
    "sparse labels": lambda: _sparse(router="per_modality", many_labels=True),
    "sparse series": _sparse_series,
    "sparse pipeline": _sparse_pipeline,
    "cross": lambda: _cross(gating="laplace").without("text"),
    "cross concat": lambda: _cross(fusion="concat", moe=False, pooling="cls", streams=["image"]),
    "cross columns": _cross_table,
    "tokens": _tokens,
    "cross cut": lambda: _cross_table(streams={"a": (slice(0, 4), 2), "b": ([4, 5], 1)}),
}
