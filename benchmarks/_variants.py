"""The variants that `reproduce` compares, each as a classifier and what it is given."""

import numpy as np
from sklearn.base import clone

from benchmarks._experiment_data import ROLES, encode
from benchmarks._experiment_runs import probe
from benchmarks.joint import PublishedSign
from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    JointTraining,
    LinearGate,
)
from skmoecbm.concepts import SubmodularSelector

__all__ = ["COMPARISONS", "LARGE", "lists", "variants"]

LARGE = "generalist, large"

# question -> pairs (a, b) of which the difference a - b answers it
COMPARISONS = {
    "separate concept spaces": (
        ("list each", "generalist's list for both"),
        ("list each", "specialist's list for both"),
        ("list each", "one list, nothing chosen"),
    ),
    "learned fusion": (
        ("gate", "average"),
        ("gate, no guard", "average"),
        ("joint, right sign", "average"),
        ("joint, published sign", "average"),
        ("joint, right sign", "joint, published sign"),
    ),
}


def variants(experiment, rows, seed, *, weights=None):
    """Yield (name, classifier, its input) of everything that is fitted on all concepts known.

    `rows` are the training rows, `weights` the `class_weight`. Each classifier is to be fitted
    before the next is asked for.
    """
    X, y, groups = experiment.X, experiment.y, experiment.groups
    prior = {} if experiment.words else {"prior": None}
    head = ConceptBottleneckClassifier(**prior)
    for role in ROLES:
        single = ConceptBottleneckClassifier(class_weight=weights, **prior)
        yield role, single, X.select(role)
    original = ConceptBottleneckClassifier(activation="softmax") if experiment.words else head

    def mixture(gate="linear", head=head, **settings):
        return GatedConceptBottleneckClassifier(
            head, gate, random_state=seed, class_weight=weights, **settings
        )

    for role in ROLES if experiment.words else ():
        # the published head, trained as it was: by mini-batches, stopped early
        yield (
            f"{role}, softmax head",
            mixture("mlp", original, training=JointTraining()),
            X.select(role),
        )
    average = mixture("uniform")
    yield "average", average, X
    # The penalty is chosen before any gate, so that theirs is that of the average, fitted by now.
    same = clone(head).set_params(alpha=average.alpha_)
    yield "gate", mixture(head=same), X
    yield "gate, no guard", mixture(LinearGate(), same, guard=False), X
    for name, training in (
        ("joint, published sign", PublishedSign()),
        ("joint, right sign", JointTraining()),
        ("joint, no entropy", JointTraining(gate_entropy=0.0)),
    ):
        yield name, mixture("mlp", original, training=training), X
    embeddings = {block.name: np.asarray(block.embeddings) for block in X.blocks}
    embeddings["both"] = np.hstack(list(embeddings.values()))
    for role, values in embeddings.items():
        linear = probe(y[rows], groups[rows], class_weight=weights)
        yield f"linear probe, {role}", linear, values


def large(experiment, images, backbone, bank, store):
    """Return the features of a larger generalist."""
    return ExpertFeatures([encode(images, backbone, bank, store, LARGE)])


def lists(experiment, rows, seed, *, weights=None):
    """Yield the plain average on concept lists of the same length, chosen in several ways.

    Candidates are all concepts of the bank, the same for both experts. A choice is made on the
    training rows `rows` alone, by the submodular rule, half of the candidates.
    """
    y, chosen = experiment.y, {}
    n_classes = len(experiment.class_keys or [0])
    for role, (images, texts, names) in experiment.shared.items():
        selector = SubmodularSelector(max(1, round(len(names) / n_classes / 2)))
        with_classes = {}
        if experiment.incidence is not None:
            keep = np.isin(experiment.class_keys, np.unique(y[rows]))
            with_classes["incidence"] = experiment.incidence[:, keep]
        selector.fit(images[rows], y[rows], texts, **with_classes)
        chosen[role] = selector.support_
    everything = np.arange(len(names))
    prior = {} if experiment.words else {"prior": None}
    for name, positions in (
        ("list each", chosen),
        *((f"{role}'s list for both", dict.fromkeys(ROLES, chosen[role])) for role in ROLES),
        ("one list, nothing chosen", dict.fromkeys(ROLES, everything)),
    ):
        average = GatedConceptBottleneckClassifier(
            ConceptBottleneckClassifier(**prior),
            "uniform",
            random_state=seed,
            class_weight=weights,
        )
        yield name, average, experiment.lists(positions)
