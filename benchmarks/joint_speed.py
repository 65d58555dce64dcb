"""The default fit and joint training against the original loop, and a step against its bytes.

All on the drawn features of `benchmarks.fit` at HAM10000's size, in one process on one thread.
Times are processor time, in which other users of the machine do not count (they still take from
its caches, which is why each arm is run several times and repeats are compared one by one).
The original loop runs once: it takes hundreds of times as long, and its curve is written down.

    python -m benchmarks.joint_speed
    python -m benchmarks.joint_speed --curve benchmarks/original_loop_curve.json

* "to its best": the time until the original loop first reaches the best validation accuracy of the
  epochs run. Where it was still improving when stopped, that is less than it needs.
* Joint arms are asked for that same accuracy: with few epochs, if the fit then has it, else with
  more (1, 2, 3, 5, 8, ...), at last all it wants; where it never gets there, the loop's time is
  that to the accuracy found.
  "training" is on the loop's own clock, which runs for steps alone: theirs, the coordinates they
  take them in and the look at the validation rows. "whole fit" is all of that fit: what is checked
  and recorded, similarities, gate inputs.
* An epoch of the loop is timed again beside each repeat, and a curve read from a file keeps its
  accuracies alone: both sides are of the same minutes.

The original's softmax association, on these features, decides little by itself (0.70 with equal
weights, however long it is trained): what it gains it owes to a gate that reads the generalist's
embedding. So the softmax arm has that gate; the linear arms have the default one.

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
    _joint_fit,
)
from skmoecbm._association import AssociationProblem
from skmoecbm._similarities import Similarities


def arms(alpha=1e-3):
    """Return the models by name; of the joint ones a function of how many epochs they may take."""
    fixed = ConceptBottleneckClassifier(alpha=alpha)

    def joint(activation="linear", **settings):
        head = ConceptBottleneckClassifier(activation=activation)
        batch = settings.pop("batch_size", 64)

        def of(epochs):
            training = JointTraining(batch_size=batch, max_epochs=epochs)
            return GatedConceptBottleneckClassifier(
                head, "mlp", training=training, random_state=0, **settings
            )

        return of

    return {
        "default fit": GatedConceptBottleneckClassifier(),
        f"default fit, alpha={alpha:g}": GatedConceptBottleneckClassifier(fixed),
        "joint, linear": joint(),
        "joint, linear, the loop's batches": joint(batch_size=256),
        "joint, softmax, the loop's gate and batches": joint(
            "softmax", batch_size=256, gate_input="embeddings:generalist"
        ),
    }


class TrainingClock:
    """Processor seconds that the last joint fit spent in training, for use in a with statement."""

    def __enter__(self):
        """Begin to look."""
        self.seconds, self._train = 0.0, _joint_fit._train

        def train(*args):
            start = time.process_time()
            history = self._train(*args)
            self.seconds = time.process_time() - start
            return history

        _joint_fit._train = train
        return self

    def __exit__(self, *_):
        """Put the function back."""
        _joint_fit._train = self._train


def fewest_epochs(joint, parts, accuracy):
    """Return the first of some numbers of epochs with which a joint fit has an accuracy, or 100."""
    X, y, X_held_out, y_held_out = parts
    for epochs in (1, 2, 3, 5, 8, 12, 18, 27, 40, 60):
        if joint(epochs).fit(X, y).score(X_held_out, y_held_out) >= accuracy:
            return epochs
    return 100


def with_start(X, y, train_rows):
    """Return features whose concepts were written for the classes that the original starts from."""
    starts = written_for(X[train_rows], y[train_rows])
    experts = {b.name: (b.embeddings, b.texts, b.concepts) for b in X.blocks}
    incidence = {b.name: start.T for b, start in zip(X.blocks, starts, strict=True)}
    keys = [str(c) for c in range(len(starts[0]))]
    return ExpertFeatures.from_embeddings(experts, incidence=incidence, class_keys=keys)


def until(curve, accuracy):
    """Return the epochs until the curve first reaches an accuracy, or its best."""
    reached = np.array(curve["accuracy"])
    return 1 + int(np.argmax(reached >= min(accuracy, reached.max())))


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
        loop = (X, y, train_rows, held_out)
        X = with_start(X, y, train_rows)
        best = max(curve["accuracy"])
        parts = (X[train_rows], y[train_rows], X[held_out], y[held_out])
        models = {}
        for name, model in arms().items():
            epochs = fewest_epochs(model, parts, best) if name.startswith("joint") else None
            models[name] = (model if epochs is None else model(epochs), epochs)
        found = measure(models, loop, parts, curve, options.repeats)
        step, read = byte_bound(X[train_rows], y[train_rows])
    print(f"{n} rows, 2 experts of {options.concepts} concepts, 4,000 rows held out")
    last = curve["accuracy"][-max(1, len(curve["accuracy"]) // 10) :]
    print(
        f"original loop: {len(curve['accuracy'])} epochs of {curve['steps']} steps, best accuracy "
        f"{best:.4f} after {until(curve, best)}; mean of the last tenth {np.mean(last):.4f}; "
        f"{np.round(found['loop'], 3)} s per epoch in this run"
    )
    print(f"{'arm':<45} {'accuracy':>8} {'epochs':>6} {'training s':>10} {'whole fit s':>11}")
    for name, (_, epochs) in models.items():
        arm = found[name]
        training = f"{min(arm['training']):.3f}" if epochs else ""
        print(
            f"{name:<45} {arm['accuracy']:>8.4f} {arm['epochs'] or '':>6} {training:>10} "
            f"{min(arm['whole fit']):>11.3f}"
        )
    print(
        f"full-batch step of one expert: {1e3 * step:.2f} ms, reading its similarities twice "
        f"{1e3 * read:.2f} ms: {step / read:.2f} x"
    )
    versions = (platform.python_version(), torch.__version__, sklearn.__version__)
    print("python {}, torch {}, scikit-learn {}".format(*versions), end="; ")
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    ratios = []
    for name, bar in zip(models, (12, 25, 100, 100, 100), strict=True):
        arm = found[name]
        joint = name.startswith("joint")
        epochs = until(curve, arm["accuracy"] if joint else best)
        goal = f"accuracy {min(best, arm['accuracy']):.3f}" if joint else "its best"
        for clock in ("training", "whole fit")[not joint :]:
            pairs = zip(found["loop"], arm[clock], strict=True)
            values = [epochs * own / seconds for own, seconds in pairs]
            of = f"{clock} of {name}" if joint else name
            ratios.append(Ratio(f"original loop to {goal} / {of}", values, bar))
    ratios.append(Ratio("full-batch step / reading its bytes twice", [step / read], 4, most=True))
    report("joint_speed", ratios)
    if options.json:
        numbers = {"curve": curve, "found": found, "step": [step, read]}
        options.json.write_text(json.dumps(numbers, indent=1))


def measure(models, loop, parts, curve, repeats):
    """Return the loop's seconds per epoch and each arm's seconds, all repeats in turn."""
    X, y, X_held_out, y_held_out = parts
    epochs = min(3, len(curve["accuracy"]))
    found = {"loop": []}
    for _ in range(repeats):
        timed = train(*loop, epochs=epochs, patience=epochs)
        found["loop"].append(timed["seconds"][-1] / epochs)
        for name, (model, asked) in models.items():
            arm = found.setdefault(name, {"training": [], "whole fit": []})
            with TrainingClock() as clock:
                start = time.process_time()
                model.fit(X, y)
                arm["whole fit"].append(time.process_time() - start)
            arm["training"].append(clock.seconds)
            arm["accuracy"] = float(model.score(X_held_out, y_held_out))
            arm["epochs"] = len(model.training_history_["train_loss"]) if asked else None
    return found


if __name__ == "__main__":
    main()
