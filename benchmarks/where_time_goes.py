"""Where the time of an import, of the demo, of a fit on photographs and of an explanation goes.

    python -m benchmarks.where_time_goes
    python -m benchmarks.where_time_goes --data $SKMOECBM_TEST_DATA --out benchmarks/profile.md

Each of the three runs has a process of its own. What it will import is imported first, and counts
as "imports". Then clocks are put around some functions of the package; the time of one is without
that of those inside it, so that the parts add up to the whole. It is time of the processor, on one
thread, in which other users of the machine do not count, and the least of some repeats.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

from benchmarks._machine import describe_machine

# What is told of: the name of a part, and the functions whose time it is.
PARTS = {
    "drawing the lesions of the demo": ["datasets:make_lesions"],
    "reading and hashing files": ["_encoder_rows:image_keys"],
    "decoding": ["images:decode"],
    "resizing": ["_pixels:Preprocessing.levels", "backbones:Backbone._pixels"],
    "networks on images": ["_model_cache:Network.encode"],
    "texts of the concepts": ["backbones:Backbone.embed_texts"],
    "loading networks": ["_model_cache:NetworkCache.get"],
    "reading and writing the store": ["store:EmbeddingStore.get", "store:EmbeddingStore.put"],
    "choosing alpha": ["_first_stage:FirstStage._choose_alpha"],
    "experts, on all rows and out of fold": ["_first_stage:FirstStage._fit_experts"],
    "gate, temperatures and guard": ["_second_stage:SecondStage._fit_gate"],
    "intervals by bootstrap": ["_evaluate:evaluate"],
    "explanation: the numbers": ["explanation:explain"],
    "explanation: the pictures": ["_outputs:draw_explanations"],
    "saving the model": ["hub:save"],
    "loading the model": ["hub:load"],
}
IMPORTS = ("datasets", "encoder", "classifier", "explanation", "hub", "_evaluate", "_outputs")


class Clocks:
    """Processor time by part, each without that of the parts inside it."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._open = []

    def put(self, part, place):
        """Put a clock around "module:function" or "module:Class.method"."""
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner = importlib.import_module(f"skmoecbm.{module}")
        for step in owners:
            owner = getattr(owner, step)
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args, **kwargs):
            self._open.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds[part] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        setattr(owner, name, timed)


def run_demo(folder, data):
    """Run what `skmoecbm demo` runs."""
    from skmoecbm.cli import main

    main(["demo", "--out", str(folder / "demo")])


def ham10000_model(folder):
    """Return the pipeline and the store's folder of the runs on photographs."""
    from sklearn.pipeline import make_pipeline

    from skmoecbm import ConceptEncoder, ExpertUnion, GatedConceptBottleneckClassifier

    names = ("demo-general", "demo-structures")
    cache = folder / "store"
    encoders = [(n, ConceptEncoder(n, "lesions", cache_dir=cache, device="cpu")) for n in names]
    return make_pipeline(ExpertUnion(encoders), GatedConceptBottleneckClassifier(random_state=0))


def read_ham10000(data):
    """Return paths and diagnoses of the training photographs."""
    import pandas as pd

    table = pd.read_csv(data / "ham10000" / "metadata.csv")
    table = table[table["split_lesion"] == "train"]
    paths = {path.stem: str(path) for path in sorted((data / "ham10000").rglob("*.jpg"))}
    table = table[table["image_id"].isin(list(paths))]
    return [paths[name] for name in table["image_id"]], table["dx"].to_numpy()


def run_fit(folder, data):
    """Fit on the photographs, whose embeddings nobody has yet, and save the model."""
    from skmoecbm import save

    images, y = read_ham10000(data)
    save(ham10000_model(folder).fit(images, y), folder / "model")


def run_explain(folder, data):
    """Explain four photographs with the saved model, as `skmoecbm explain` does."""
    from skmoecbm import explanation, hub
    from skmoecbm._outputs import draw_explanations, picture_paths

    model = hub.load(folder / "model")
    images, _ = read_ham10000(data)
    told = explanation.explain(model, images[:4])
    draw_explanations(told, picture_paths(folder / "why.png", 4))


RUNS = {"demo": run_demo, "fit": run_fit, "explain": run_explain}


def child(name, folder, data):
    """Do one run and print its seconds by part."""
    start = time.process_time()
    for module in IMPORTS:
        importlib.import_module(f"skmoecbm.{module}")
    clocks = Clocks()
    clocks.seconds["imports"] = time.process_time() - start
    for part, places in PARTS.items():
        for place in places:
            clocks.put(part, place)
    begin = time.process_time()
    with open(os.devnull, "w") as nowhere:
        told, sys.stdout = sys.stdout, nowhere
        RUNS[name](folder, data)
        sys.stdout = told
    whole = time.process_time() - begin + clocks.seconds["imports"]
    clocks.seconds["all else"] = whole - sum(clocks.seconds.values())
    print(json.dumps(clocks.seconds))


def measure(name, data, repeats, folder):
    """Return {part: least seconds} of a run that was repeated."""
    runs = []
    for repeat in range(repeats):
        place = folder if name == "explain" else folder / f"{name}-{repeat}"
        place.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.where_time_goes", "--child", name]
        command += ["--folder", str(place), *(["--data", str(data)] if data else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}: {sum(runs[-1].values()):.1f} s", file=sys.stderr, flush=True)
    return min(runs, key=lambda run: sum(run.values()))


def import_seconds(statement):
    """Return wall seconds of an import in a new process, and by package its own share."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    options = {"capture_output": True, "text": True, "check": True}
    plain = subprocess.run([sys.executable, "-c", code], **options)
    # Taking down every import costs time of its own.
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], **options)
    shares = defaultdict(float)
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            shares[name.strip().partition(".")[0]] += int(own) / 1e6
    return float(plain.stdout), shares


def breakdown(seconds):
    """Return a Markdown table of parts, the longest first."""
    whole = sum(seconds.values())
    lines = ["| part | s | share |", "|---|--:|--:|"]
    for part, spent in sorted(seconds.items(), key=lambda pair: -pair[1]):
        if spent >= 0.005 * whole:
            lines.append(f"| {part} | {spent:.2f} | {spent / whole:.0%} |")
    return "\n".join([*lines, f"| **all** | **{whole:.2f}** | |"])


def write(options):
    """Measure everything and return the page."""
    lines = [
        "# Where the time goes",
        "",
        f"Written by `python -m benchmarks.where_time_goes`, the least of {options.repeats} runs. "
        f"Processor time on one thread. {describe_machine()}.",
        "",
        "## Imports",
        "",
        "Wall time in a new process.",
        "",
        "| statement | s |",
        "|---|--:|",
    ]
    statements = ("import skmoecbm", "from skmoecbm import ConceptEncoder")
    for statement in statements:
        found = min((import_seconds(statement) for _ in range(options.repeats)), key=lambda f: f[0])
        lines.append(f"| `{statement}` | {found[0]:.3f} |")
    largest = sorted(found[1].items(), key=lambda pair: -pair[1])[:6]
    told = ", ".join(f"{name} {spent:.2f} s" for name, spent in largest)
    lines += ["", f"Of the last, by package and without what each imports in turn: {told}.", ""]
    titles = {
        "demo": "`skmoecbm demo`",
        "fit": "A fit on {} photographs of HAM10000, none of them embedded before",
        "explain": "Loading that model and explaining four photographs, pictures included",
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in RUNS if options.data else ("demo",):
            place = folder / f"fit-{options.repeats - 1}" if name == "explain" else folder
            seconds = measure(name, options.data, options.repeats, place)
            n = len(read_ham10000(options.data)[0]) if options.data else 0
            lines += [f"## {titles[name].format(f'{n:,}')}", "", breakdown(seconds), ""]
    return "\n".join(lines)


def main(argv=None):
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the test data; without it, no fit")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child, options.folder, options.data)
        return
    page = write(options)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
