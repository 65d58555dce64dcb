"""The default fit and joint training against the original loop, and a step against its bytes.

All on the drawn features of `benchmarks.fit` at HAM10000's size, in one process on one thread.
Times are processor time, in which other users of the machine do not count (they still take from
its caches, which is why each arm is run several times and the best of each is compared). The
original loop runs once: it takes hundreds of times as long, and its curve is written down.

    python -m benchmarks.joint_speed
    python -m benchmarks.joint_speed --curve benchmarks/original_loop_curve.json

* "to its best": the time until the original loop first reaches the best validation accuracy of the
  epochs run. Where it was still improving when stopped, that is less than it needs.
* "to the same": the time until it first reaches the accuracy of the arm, or, where it never does,
  its best. The arm's own time is its whole fit, checks and all.

The byte bound of a full-batch step is the time in which the similarities are read twice, once for
the logits and once for the gradient, at the speed at which a sum reads the same array.
"""

import argparse
import json
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from benchmarks._results import Ratio, report
from benchmarks.fit import make_data
from benchmarks.original_loop import train, written_for
from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    JointTraining,
)
from skmoecbm._association import AssociationProblem
from skmoecbm._similarities import Similarities


def arms(alpha=1e-3):
    """Return the models by name."""
    head, softmax = (ConceptBottleneckClassifier(activation=a) for a in ("linear", "softmax"))
    fixed = ConceptBottleneckClassifier(alpha=alpha)
    return {
        "default fit": GatedConceptBottleneckClassifier(),
        f"default fit, alpha={alpha:g}": GatedConceptBottleneckClassifier(fixed),
        "joint, linear": GatedConceptBottleneckClassifier(head, "mlp", training=JointTraining()),
        "joint, softmax": GatedConceptBottleneckClassifier(
            softmax, "mlp", training=JointTraining()
        ),
    }


def with_start(X, y, train_rows):
    """Return features whose concepts were written for the classes that the original starts from."""
    starts = written_for(X[train_rows], y[train_rows])
    experts = {b.name: (b.embeddings, b.texts, b.concepts) for b in X.blocks}
    incidence = {b.name: start.T for b, start in zip(X.blocks, starts, strict=True)}
    keys = [str(c) for c in range(len(starts[0]))]
    return ExpertFeatures.from_embeddings(experts, incidence=incidence, class_keys=keys)


def until(curve, accuracy):
    """Return the seconds until the curve first reaches an accuracy, or its best."""
    reached = np.array(curve["accuracy"])
    return curve["seconds"][int(np.argmax(reached >= min(accuracy, reached.max())))]


def byte_bound(X, y, repeats=20):
    """Return the seconds of a full-batch step on one expert and those of reading D twice."""
    values = torch.as_tensor(X.blocks[0].values(), dtype=torch.float64)
    problem = AssociationProblem(
        Similarities(values.numpy(), torch.device("cpu")),
        torch.nn.functional.one_hot(torch.as_tensor(y)).double(),
        torch.ones(1, len(y), dtype=torch.float64),
    )
    a, b = problem.origin()
    steps, reads = [], []
    for _ in range(repeats):
        start = time.process_time()
        problem.loss_and_gradient(a, b, 1.0)
        middle = time.process_time()
        values.sum(), values.sum()
        steps.append(middle - start)
        reads.append(time.process_time() - middle)
    return min(steps), min(reads)


def main(argv=None):
    """Print a table; with `--json` write its numbers and the original loop's curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--concepts", type=int, default=350)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--patience", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curve", type=Path, help="curve of an earlier run, in the place of one")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    n = options.rows
    X, y = make_data(n + 4000, options.concepts, seed=options.seed)
    train_rows, held_out = np.arange(n), np.arange(n, n + 4000)
    with threadpool_limits(1):
        if options.curve:
            curve = json.loads(options.curve.read_text())
        else:
            limits = {"epochs": options.epochs, "patience": options.patience}
            curve = train(X, y, train_rows, held_out, **limits)
        X = with_start(X, y, train_rows)
        times, found = {name: [] for name in arms()}, {}
        for _ in range(options.repeats):
            for name, model in arms().items():
                start = time.process_time()
                model.fit(X[train_rows], y[train_rows])
                times[name].append(time.process_time() - start)
                found[name] = float(model.score(X[held_out], y[held_out]))
        step, read = byte_bound(X[train_rows], y[train_rows])
    best = max(curve["accuracy"])
    whole = until(curve, best)
    last = curve["accuracy"][-max(1, len(curve["accuracy"]) // 10) :]
    print(f"{n} rows, 2 experts of {options.concepts} concepts, 4,000 rows held out")
    print(
        f"original loop: {len(curve['accuracy'])} epochs of {curve['steps']} steps in "
        f"{curve['seconds'][-1]:.1f} s, best accuracy {best:.4f} after {whole:.1f} s; mean of the "
        f"last tenth {np.mean(last):.4f}"
    )
    print(f"{'arm':<28} {'seconds':>8} {'all':>24} {'accuracy':>9} {'to its best':>12} to the same")
    for name, seconds in times.items():
        own = min(seconds)
        print(
            f"{name:<28} {own:>8.2f} {np.round(seconds, 2)!s:>24} {found[name]:>9.4f} "
            f"{whole / own:>10.0f} x {until(curve, found[name]) / own:>9.0f} x"
        )
    print(
        f"full-batch step of one expert: {1e3 * step:.2f} ms, reading its similarities twice "
        f"{1e3 * read:.2f} ms: {step / read:.2f} x"
    )
    versions = (platform.python_version(), torch.__version__, sklearn.__version__)
    print("python {}, torch {}, scikit-learn {}".format(*versions), end="; ")
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    ratios = []
    for (name, seconds), bar in zip(times.items(), (12, 25, 100, 100), strict=True):
        target = until(curve, found[name]) if name.startswith("joint") else whole
        goal = "the same accuracy" if name.startswith("joint") else "its best"
        values = [target / own for own in seconds]
        ratios.append(Ratio(f"original loop to {goal} / {name}", values, bar))
    ratios.append(Ratio("full-batch step / reading its bytes twice", [step / read], 4, most=True))
    report("joint_speed", ratios)
    if options.json:
        numbers = {"curve": curve, "seconds": times, "accuracy": found, "step": [step, read]}
        options.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
