r"""The joint recipe with the published sign of the gate's entropy, with the right one, and without.

Drawn rows: two experts, each of which sees the class in half of the rows and noise in the others;
which half a row is in shows in both. With `--ham10000` the rows are photographs under the two demo
experts, lesion-disjoint parts, shots drawn from the training part anew for each seed.

    python -m benchmarks.joint
    python -m benchmarks.joint --ham10000 $SKMOECBM_TEST_DATA/ham10000 \
        --phrases $SKMOECBM_TEST_DATA/concepts/labo_ham10000_selected.json

A start has collapsed when the mean gate weight of one expert over the test rows exceeds 0.99: then
all others together have less than a hundredth of the say, and the mixture is one expert in all
but name. On the drawn rows the best gate gives each expert a half.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.special import xlogy
from sklearn.metrics import balanced_accuracy_score, log_loss

from benchmarks.fit import read_ham10000
from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    JointTraining,
)

COLLAPSED = 0.99


class PublishedSign(JointTraining):
    """The recipe as published code has it: the gate's entropy is added to the loss."""

    def _objective(self, terms):
        return super()._objective(terms) + 2.0 * self.gate_entropy * terms.gate_entropy


class AnyGateRate(JointTraining):
    """The recipe with the gate as fast as one likes."""

    def _check_gate_lr(self):
        pass


def draw_rows(n_per_class, seed, *, n_classes=3, n_concepts=12, signal=1.0):
    """Return features of two experts, labels and the expert that sees the class, by row."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(2, n_classes, n_concepts))
    y = rng.permutation(np.repeat(np.arange(n_classes), n_per_class))
    seer = rng.integers(0, 2, len(y))
    experts = {}
    for e, name in enumerate(("generalist", "specialist")):
        values = rng.normal(size=(len(y), n_concepts))
        values += signal * (seer == e)[:, None] * centres[e, y]
        values[:, -3:] += 1.5 * (2 * seer[:, None] - 1)
        values = 0.25 + 0.02 * values
        experts[name] = (values, [f"concept {j}" for j in range(n_concepts)])
    return ExpertFeatures.from_similarities(experts), y, seer


def draw_shots(y, rows, n_per_class, rng):
    """Return up to `n_per_class` of some rows of each class."""
    drawn = [rows[y[rows] == label] for label in np.unique(y[rows])]
    return np.concatenate([rng.permutation(part)[:n_per_class] for part in drawn])


def arms(activation, settings):
    """Return the models by name."""
    head = ConceptBottleneckClassifier(activation=activation)
    trainings = {
        "published sign": PublishedSign(**settings),
        "right sign": JointTraining(**settings),
        "no entropy": JointTraining(**{**settings, "gate_entropy": 0.0}),
        "gate 10 x as fast": AnyGateRate(**{**settings, "gate_lr": 10 * JointTraining().gate_lr}),
    }
    models = {
        name: GatedConceptBottleneckClassifier(head, "mlp", training=training)
        for name, training in trainings.items()
    }
    return models | {"staged, the default": GatedConceptBottleneckClassifier()}


def judge(model, X, y):
    """Return balanced accuracy, log-loss, mean gate entropy and whether the gate collapsed."""
    gate, proba = model.gate_weights(X), model.predict_proba(X)
    return [
        balanced_accuracy_score(y, model.classes_[proba.argmax(1)]),
        log_loss(y, proba, labels=model.classes_),
        float(-xlogy(gate, gate).sum(1).mean()),
        bool(gate.mean(0).max() > COLLAPSED),
    ]


def main(argv=None):
    """Print a table, and with `--json` write its numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 50, 400])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--activations", nargs="+", default=["softmax", "linear"])
    parser.add_argument("--gate-entropy", type=float, default=JointTraining().gate_entropy)
    parser.add_argument("--ham10000", type=Path)
    parser.add_argument("--phrases", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.ham10000:
        X, y, pool, test = read_ham10000(options.ham10000, options.phrases)
        X_test, y_test = X[test], y[test]
    else:
        X_test, y_test, _ = draw_rows(700, 10_000)
    results = []
    print("association  shots  arm                  bal. acc.   log-loss  gate entropy  collapsed")
    for activation in options.activations:
        for shots in options.shots:
            for name, model in arms(activation, {"gate_entropy": options.gate_entropy}).items():
                found = []
                for seed in range(options.seeds):
                    if options.ham10000:
                        rows = draw_shots(y, pool, shots, np.random.default_rng(seed))
                        X_train, y_train = X[rows], y[rows]
                    else:
                        X_train, y_train, _ = draw_rows(shots, seed)
                    model.set_params(random_state=seed).fit(X_train, y_train)
                    found.append(judge(model, X_test, y_test))
                accuracy, loss, entropy, collapsed = np.array(found, dtype=float).T
                print(
                    f"{activation:<11}  {shots:>5}  {name:<19}  {accuracy.mean():>9.3f}  "
                    f"{loss.mean():>9.3f}  {entropy.mean():>12.3f}  "
                    f"{collapsed.sum():>4.0f} of {len(found)}",
                    flush=True,
                )
                results.append(
                    {
                        "association": activation,
                        "shots": shots,
                        "arm": name,
                        "balanced accuracy": accuracy.tolist(),
                        "log-loss": loss.tolist(),
                        "gate entropy": entropy.tolist(),
                        "collapsed": int(collapsed.sum()),
                    }
                )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
