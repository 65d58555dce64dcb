"""Laws of the whole package: import order, quiet import, documented names, short files."""

import ast
import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import skmoecbm

PACKAGE = Path(skmoecbm.__file__).parent

# From the ground floor up: a room may import only from rooms on earlier lines.
ROOMS = """
exceptions
_validation
_decoding
images
concepts
_precision
_model_source
_model_network
_model_cache
backbones
store
_blocks
features
encoder
_lbfgs
_association
_gating
_calibration
classifier
_explanation_tables
_explanation_plot
explanation
_metrics
_evaluate
display
schema
card
hub
datasets
_folder
_commands
_demo_run
cli
""".split()


def source_files():
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree):
    """Yield (imported skmoecbm room or None for the package itself, where, line).

    `where` is "module", "function" or "method".
    """

    def walk(node, where):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.name.split(".")[0] == "skmoecbm":
                        parts = alias.name.split(".")
                        yield (parts[1] if parts[1:] else None), where, child.lineno
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"relative import in line {child.lineno}"
                parts = (child.module or "").split(".")
                if parts == ["skmoecbm"]:
                    for alias in child.names:
                        known = alias.name in ROOMS
                        yield (alias.name if known else None), where, child.lineno
                elif parts[0] == "skmoecbm":
                    yield parts[1], where, child.lineno
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "method" if where in ("class", "method") else "function"
                yield from walk(child, inner)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, "class")
            else:
                yield from walk(child, where)

    for room, where, line in walk(tree, "module"):
        yield room, "module" if where == "class" else where, line


def broken_imports(path, source):
    """Return the imports in `source`, the text of `path`, that the order of rooms forbids."""
    here = ROOMS.index(room_of(path))
    broken = []
    for room, where, line in imports_of(ast.parse(source)):
        if room == room_of(path) or where == "method":
            continue
        if room is None:
            # Only the version lives in the package itself; all else has a room to come from.
            if room_of(path) not in ("schema", "card", "hub", "cli"):
                broken.append(f"{path.name}:{line} imports from the package itself")
        elif room not in ROOMS or ROOMS.index(room) > here:
            broken.append(f"{path.name}:{line} imports {room} ({where})")
    return broken


FILES = [path for path in source_files() if path != PACKAGE / "__init__.py"]


def test_every_file_has_a_place_in_the_order():
    assert {room_of(path) for path in FILES} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rooms_above_it(path):
    assert broken_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("from skmoecbm.exceptions import InputError", True),
        ("from skmoecbm.classifier import X", False),
        ("import skmoecbm.classifier", False),
        ("def f():\n    from skmoecbm.classifier import X", False),
        ("class C:\n    def f(self):\n        from skmoecbm.classifier import X", True),
        ("class C:\n    from skmoecbm.classifier import X", False),
        ("try:\n    from skmoecbm import cli\nexcept ImportError:\n    pass", False),
        ("from skmoecbm import ConceptEncoder", False),
    ],
)
def test_the_check_of_the_order_sees_what_it_should(source, allowed):
    assert (broken_imports(PACKAGE / "store.py", source) == []) is allowed


def test_no_file_is_longer_than_400_lines():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in source_files()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def public_names():
    names = [("skmoecbm", name) for name in skmoecbm.__all__]
    for path in FILES:
        module = import_module(module_name(path))
        names += [(module.__name__, name) for name in getattr(module, "__all__", [])]
    return names


def test_every_file_and_public_name_is_documented():
    bare = [
        path.name
        for path in source_files()
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    for module, name in public_names():
        thing = getattr(import_module(module), name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not inspect.getdoc(thing):
            bare.append(f"{module}.{name}")
        for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
            routine = inspect.isroutine(value) or isinstance(value, property)
            if routine and not attribute.startswith("_"):
                # getdoc follows inheritance: an overridden method may keep its parent's text
                if not inspect.getdoc(getattr(thing, attribute)):
                    bare.append(f"{module}.{name}.{attribute}")
    assert bare == []


def test_public_signatures_spell_out_their_parameters():
    loose = []
    for module, name in public_names():
        thing = getattr(import_module(module), name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not getattr(thing, "__module__", "").startswith("skmoecbm"):
            continue
        # An estimator's __init__ is its own; a pydantic model's is generated from its fields.
        if inspect.isclass(thing) and "__init__" not in vars(thing):
            continue
        kinds = {parameter.kind for parameter in inspect.signature(thing).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            loose.append(f"{module}.{name}")
    assert loose == []


QUIET_IMPORT = """
import json, logging, os, sys, warnings
import numpy, torch, sklearn, sklearn.base, sklearn.pipeline, scipy, joblib, PIL.Image, pydantic
import sklearn.callback, sklearn.utils, sklearn.model_selection
import safetensors, safetensors.torch, huggingface_hub, open_clip, tqdm

def state():
    return {
        "environment": dict(os.environ),
        "filters": [str(entry) for entry in warnings.filters],
        "handlers": [str(handler) for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "torch_rng": torch.get_rng_state().sum().item(),
        "numpy_rng": repr(numpy.random.get_state()),
        "bomb_limit": PIL.Image.MAX_IMAGE_PIXELS,
        "truncated": __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES,
    }

before = state()
import importlib
import skmoecbm
for name in skmoecbm.__all__:
    getattr(skmoecbm, name)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps({
    "changed": [key for key in before if before[key] != after[key]],
    "late": [name for name in ("matplotlib", "pandas", "transformers") if name in sys.modules],
}))
"""


def test_import_changes_nothing_in_the_process_and_makes_no_folder(tmp_path):
    # torch, scikit-learn and open_clip do change things; they are imported before the first look.
    home = tmp_path / "home"
    home.mkdir()
    environment = dict(os.environ, HOME=str(home), SKMOECBM_CACHE=str(home / "cache"))
    environment["XDG_CACHE_HOME"] = str(home / "xdg")
    environment["HF_HOME"] = str(home / "hf")
    modules = json.dumps([module_name(path) for path in FILES])
    child = subprocess.run(
        [sys.executable, "-c", QUIET_IMPORT, modules],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    seen = json.loads(child.stdout)
    assert seen["changed"] == []
    assert [
        str(path) for path in home.rglob("*") if "skmoecbm" in str(path.relative_to(home))
    ] == []
    assert not (home / "cache").exists()


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert version("skmoecbm") == skmoecbm.__version__


@pytest.mark.parametrize("word", ["TODO", "FIXME", "noqa", "type: ignore", "pragma: no cover"])
def test_no_unfinished_marks_are_left_in_the_package(word):
    assert [path.name for path in source_files() if word in path.read_text("utf-8")] == []
