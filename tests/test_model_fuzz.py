"""Damaged and hostile folders: each is refused with a FormatError, or loads and is of use.

`tools/fuzz_models.py` runs the same kinds of damage by the ten thousand, with time and memory.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skmoecbm import FormatError, load, save
from tests.model_bases import BASES
from tests.model_mutations import ARRAYS, CONFIG, KINDS, mutated, read_arrays
from tests.model_use import outcome_of, use


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of every base model, name -> file name -> bytes."""
    found = {}
    for name, make in BASES.items():
        folder = tmp_path_factory.mktemp("base") / "model"
        save(make(), folder)
        found[name] = {file: (folder / file).read_bytes() for file in (CONFIG, ARRAYS)}
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def _write(place, files):
    for file, content in files.items():
        (place / file).write_bytes(content)
    return place


def test_the_base_models_are_whole_and_of_use(models, place):
    for name, files in models.items():
        assert outcome_of(_write(place, files)) == "loaded", name
    kinds = {json.loads(files[CONFIG])["model"]["kind"] for files in models.values()}
    assert len(kinds) == 6
    gates = {json.loads(files[CONFIG])["model"].get("gate") for files in models.values()}
    assert gates >= {"uniform", "expert", "constant", "linear", "gaussian", "laplace", "mlp"}
    assert sum("model.sets.scores" in read_arrays(files[ARRAYS]) for files in models.values()) == 1


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    name=st.sampled_from(sorted(BASES)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_damaged_folder_is_refused_or_of_use(models, place, kind, name, seed):
    _write(place, mutated(kind, name, models, random.Random(seed)))
    assert outcome_of(place) in ("refused", "loaded", "loaded, then refused")


def test_every_kind_of_damage_is_noticed_and_most_can_be_survived(models, place):
    outcomes = Counter()
    for i, kind in enumerate(sorted(KINDS) * 12):
        name = sorted(BASES)[i % len(BASES)]
        files = mutated(kind, name, models, random.Random(i))
        outcomes[kind, outcome_of(_write(place, files))] += 1
    assert all(outcomes[kind, "refused"] for kind in KINDS)
    assert sum(outcomes[kind, "loaded"] > 0 for kind in KINDS) > len(KINDS) / 2


def _edited(models, name, edit):
    data = json.loads(models[name][CONFIG])
    edit(data["model"])
    return {**models[name], CONFIG: json.dumps(data).encode()}


def _encoder(model):
    return model["steps"][0]["node"]["experts"][0]["encoder"]


HOSTILE = {
    "memory names a folder": ("pipeline", lambda m: m["parameters"].update(memory="/tmp/cache")),
    "a thousand million threads": ("linear", lambda m: m["parameters"].update(n_jobs=10**9)),
    "threads as a word": ("linear", lambda m: m["parameters"].update(n_jobs="all")),
    "a URL for a backbone": (
        "pipeline",
        lambda m: _encoder(m)["parameters"].update(backbone="https://example.org/model.bin"),
    ),
    "a URL behind hf-hub": (
        "pipeline",
        lambda m: _encoder(m)["parameters"].update(backbone="hf-hub:https://example.org/x"),
    ),
    "a home folder": (
        "pipeline",
        lambda m: _encoder(m)["parameters"].update(backbone="local-dir:~root"),
    ),
    "a revision that is a path": (
        "encoder",
        lambda m: m["parameters"].update(revision="../../../../tmp/x"),
    ),
    "a cache folder": ("encoder", lambda m: m["parameters"].update(cache_dir="/tmp/x")),
    "concepts from a file": ("encoder", lambda m: m["parameters"].update(concepts="/etc/x.json")),
    "columns that are no columns": (
        "pipeline",
        lambda m: m["steps"][0]["node"]["experts"][0].update(
            columns={"$slice": [0, 10**12, 1]}, has_columns=True
        ),
    ),
    "labels of 40 GB": (
        "single",
        lambda m: m["classes"].update(dtype="<U99999", values=[str(i) for i in range(100_000)]),
    ),
    "a width beyond memory": ("encoder", lambda m: m.update(dim=2**31)),
    "rows beyond memory": ("sets", lambda m: m["sets"].update(n_rows=2**31)),
    "a hidden layer beyond memory": ("mlp", lambda m: m.update(gate_hidden=2**31)),
    "components beyond memory": ("linear", lambda m: m.update(gate_components=2**31)),
    "heads of many labels in a mixture of one": (
        "linear",
        lambda m: [head.update(multilabel=True) for head in m["heads"]],
    ),
    "a classifier before the last step": (
        "pipeline",
        lambda m: m["steps"].insert(0, {**m["steps"][1], "name": "first"}),
    ),
    "two steps of one name": ("pipeline", lambda m: m["steps"][1].update(name="experts")),
    "a step named as parameters are": ("pipeline", lambda m: m["steps"][0].update(name="a__b")),
    "a gate with arguments that it does not have": (
        "edited",
        lambda m: m["parameters"].update(
            gate={"$object": "ConstantGate", "parameters": {"args": [1]}}
        ),
    ),
    "experts beyond memory": ("sparse", lambda m: m["shape"].update(n_experts=2**31)),
    "units beyond memory": ("sparse", lambda m: m["shape"].update(hidden=2**31)),
    "a router that there is not": ("sparse", lambda m: m["shape"].update(router="both")),
    "more chosen than there are": ("sparse", lambda m: m["shape"].update(top_k=4)),
    "experts that the tensors do not have": ("sparse", lambda m: m["shape"].update(n_experts=2)),
    "another gate than the tensors": ("sparse", lambda m: m["shape"].update(gating="softmax")),
    "two modalities of one name": (
        "sparse",
        lambda m: m.update(modality_names=["left", "left"]),
    ),
    "a column in two modalities": (
        "sparse",
        lambda m: m["modality_columns"][1].__setitem__(0, 0),
    ),
    "a modality of no column": (
        "sparse",
        lambda m: (m["modality_columns"].append([]), m["column_names"].append([])),
    ),
    "a column beyond the features": (
        "sparse",
        lambda m: m["modality_columns"][1].__setitem__(3, m["n_features_in"]),
    ),
    "a modality left out that there is not": (
        "sparse masked",
        lambda m: m.update(masked_modalities=["sound"]),
    ),
    "no modality left": (
        "sparse masked",
        lambda m: m.update(masked_modalities=["left", "right"]),
    ),
    "a modality left out twice": (
        "sparse masked",
        lambda m: m.update(masked_modalities=["left", "left"]),
    ),
    "a letter of a modality left out": (
        "sparse masked",
        lambda m: m.update(masked_modalities="left"),
    ),
    "a modality left out as of streams": (
        "sparse masked",
        lambda m: m.update(masked_streams=m.pop("masked_modalities")),
    ),
    "a network with a penalty": ("sparse", lambda m: m.update(alpha=1.0)),
    "an epoch that was not": ("sparse", lambda m: m["history"].update(best_epoch=99)),
    "batches of a word": (
        "sparse",
        lambda m: m["parameters"]["training"]["parameters"].update(batch_size="all"),
    ),
    "a balance of another kind": (
        "sparse",
        lambda m: m["parameters"].update(balancing={"$object": "MiniBatches", "parameters": {}}),
    ),
    "three streams": (
        "cross",
        lambda m: m.update(stream_names=["a", "b", "c"], stream_widths=[3, 2, 2]),
    ),
    "two streams of one name": ("cross", lambda m: m.update(stream_names=["text", "text"])),
    "tokens of no width": ("cross", lambda m: m["stream_widths"].__setitem__(0, 0)),
    "tokens beyond memory": ("cross", lambda m: m["stream_widths"].__setitem__(0, 2**31)),
    "projections beyond memory": ("cross", lambda m: m["shape"].update(width=2**31)),
    "a stream left out that there is not": ("cross", lambda m: m.update(masked_streams=["x"])),
    "the only stream left out": (
        "cross concat",
        lambda m: m.update(masked_streams=m["stream_names"]),
    ),
    "no stream left": ("cross", lambda m: m.update(masked_streams=["image", "text"])),
    "tokens cut out of nothing": ("cross", lambda m: m.update(reading="cut")),
    "columns that there are not": (
        "cross cut",
        lambda m: m["stream_columns"][0].__setitem__(0, m["n_features_in"]),
    ),
    "half a token": ("cross cut", lambda m: m["stream_columns"][0].pop()),
    "attention that the tensors do not have": (
        "cross concat",
        lambda m: m["shape"].update(fusion="attention"),
    ),
    "a seed that is none": ("linear", lambda m: m["parameters"].update(random_state=0.11)),
    "two columns of one name": (
        "single",
        lambda m: m["feature_names_in"].__setitem__(3, m["feature_names_in"][4]),
    ),
    "frequencies of other classes": (
        "single",
        lambda m: m["parameters"].update(target_prevalence={"$pairs": [["other", 0.5]]}),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_refused_when_it_is_loaded(models, place, name):
    base, edit = HOSTILE[name]
    _write(place, _edited(models, base, edit))
    with pytest.raises(FormatError):
        load(place)


def test_objects_without_parameters_are_saved(models):
    gate = json.loads(models["edited"][CONFIG])["model"]["parameters"]["gate"]
    assert gate == {"$object": "ConstantGate", "parameters": {}}


def test_many_threads_in_a_search_of_the_selector_are_refused_too(models, place):
    wild = {"$object": "SubmodularSelector", "parameters": {"n_jobs": 10**6}}
    _write(place, _edited(models, "encoder", lambda m: m["parameters"].update(select=wild)))
    with pytest.raises(FormatError, match=r"n_jobs|does not have"):
        load(place)


WATCH = r"""
import json, os, sys, warnings

warnings.simplefilter("ignore")
root = os.path.realpath(sys.argv[1])
folders = sorted(os.path.join(root, name) for name in os.listdir(root))
from tests.model_use import outcome_of

for folder in folders[: int(sys.argv[2])]:  # honest ones: what they import is known code
    outcome_of(folder)
before, seen, watching = set(sys.modules), [], True
QUIET = ("object.", "sys._getframe", "marshal.", "gc.", "cpython.", "code.__new__", "builtins.id",
         "os.listdir", "os.scandir", "tempfile.", "time.", "array.__new__", "mmap.__new__")


def hook(event, arguments):
    if not watching or event.startswith(QUIET):
        return
    if event == "open" and isinstance(arguments[0], str):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if arguments[0].startswith(root) and not writes:
            return
    if event == "open" and isinstance(arguments[0], int):
        return
    # how inspect.signature, for repr, reads that of object.__init__
    if event == "compile" and arguments[0] == b"def foo(self, *args, **kwargs): pass":
        return
    # how numpy reads the head of an array: ast.literal_eval, which parses and runs nothing
    if event == "compile" and arguments[0][:8] == b"{'descr'" and arguments[1] == "<unknown>":
        return
    seen.append(f"{event} {arguments!r:.120}")


sys.addaudithook(hook)
outcomes = [outcome_of(folder) for folder in folders]
watching = False
new = sorted(set(sys.modules) - before)
print(json.dumps({"outcomes": outcomes, "seen": sorted(set(seen)), "modules": new}))
"""


def test_loading_imports_runs_writes_and_connects_nothing(models, tmp_path):
    names = sorted(models)
    for i, name in enumerate(names):
        (tmp_path / "all" / f"{i:03}").mkdir(parents=True)
        _write(tmp_path / "all" / f"{i:03}", models[name])
    for i in range(len(names), 150):
        files = mutated(
            random.Random(-i).choice(["values", "numbers", "parameters", "numbers of arrays"]),
            names[i % len(names)],
            models,
            random.Random(i),
        )
        (tmp_path / "all" / f"{i:03}").mkdir()
        _write(tmp_path / "all" / f"{i:03}", files)
    child = subprocess.run(
        [sys.executable, "-c", WATCH, str(tmp_path / "all"), str(len(names))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parent.parent,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    told = json.loads(child.stdout.splitlines()[-1])
    assert len(told["outcomes"]) == 150
    assert 20 < told["outcomes"].count("loaded") < 150
    assert told["seen"] == []
    assert told["modules"] == []


def test_the_check_of_use_sees_a_model_that_went_wrong(models, place):
    model = load(_write(place, models["linear"]))
    model.pool_scale_ = model.pool_scale_ * float("nan")
    with pytest.raises((AssertionError, RuntimeWarning)):
        use(model)
