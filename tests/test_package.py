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

# From the ground floor up: a room may import only from rooms on earlier lines, directly or through
# private rooms that are not listed (their names begin with an underscore).
ROOMS = """
exceptions
_validation
images
concepts
backbones
store
features
encoder
_association
_gating
_calibration
classifier
search
moe
explanation
_evaluate
display
report
schema
card
hub
datasets
distributed
app
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
                        known = alias.name in ROOMS or (PACKAGE / f"{alias.name}.py").exists()
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


FILES = [path for path in source_files() if path != PACKAGE / "__init__.py"]


def import_graph(sources):
    """Return room -> rooms it imports outside of methods, from (room, text) pairs."""
    graph = {}
    for room, text in sources:
        needs = graph.setdefault(room, set())
        for needed, where, line in imports_of(ast.parse(text)):
            if where == "method" or needed == room:
                continue
            # Of the package itself only the version may be taken, where files carry it.
            carriers = ("schema", "card", "hub", "distributed", "cli")
            assert needed or room in carriers, f"{room}:{line}"
            if needed:
                needs.add(needed)
    return graph


def forbidden_chains(graph):
    """Return the chains of imports that climb the list of rooms, or end where they began."""
    broken = []

    def follow(chain):
        for needed in sorted(graph.get(chain[-1], ())):
            longer = [*chain, needed]
            if needed in chain:
                broken.append(" -> ".join(longer))
            elif needed in ROOMS:
                if chain[0] in ROOMS and ROOMS.index(needed) >= ROOMS.index(chain[0]):
                    broken.append(" -> ".join(longer))
            else:
                follow(longer)

    for room in sorted(graph):
        follow([room])
    return broken


def test_every_room_is_in_the_order_or_private():
    rooms = {room_of(path) for path in FILES}
    assert {room for room in rooms if room not in ROOMS and not room.startswith("_")} == set()


def test_rooms_import_only_from_rooms_above_them():
    graph = import_graph((room_of(path), path.read_text("utf-8")) for path in FILES)
    assert len(graph) > 10 and "exceptions" in graph["_validation"]
    assert forbidden_chains(graph) == []


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("from skmoecbm.exceptions import InputError", True),
        ("from skmoecbm.classifier import X", False),
        ("import skmoecbm.classifier", False),
        ("from skmoecbm import classifier", False),
        ("def f():\n    from skmoecbm.classifier import X", False),
        ("class C:\n    def f(self):\n        from skmoecbm.classifier import X", True),
        ("class C:\n    from skmoecbm.classifier import X", False),
        ("try:\n    from skmoecbm import cli\nexcept ImportError:\n    pass", False),
        ("from skmoecbm._helper import X", False),
        ("from skmoecbm._harmless import X", True),
        ("from skmoecbm._circle import X", False),
    ],
)
def test_the_check_of_the_order_sees_what_it_should(source, allowed):
    graph = import_graph(
        [
            ("store", source),
            ("_helper", "from skmoecbm.encoder import X"),
            ("_harmless", "from skmoecbm.images import X"),
            ("_circle", "from skmoecbm._circle2 import X"),
            ("_circle2", "from skmoecbm._circle import X"),
        ]
    )
    if "_circle " not in source:
        del graph["_circle"], graph["_circle2"]
    chains = [chain for chain in forbidden_chains(graph) if chain.startswith("store")]
    assert (chains == []) is allowed


def test_the_check_of_the_order_refuses_the_package_itself():
    with pytest.raises(AssertionError, match="store:1"):
        import_graph([("store", "from skmoecbm import ConceptEncoder")])


def test_libraries_for_some_users_only_are_imported_where_they_are_used():
    late = {"matplotlib", "pandas", "transformers", "openai", "ollama", "gradio", "ray", "pydicom"}
    late |= {"pyarrow", "datasets"}
    early = []
    for path in FILES:
        if room_of(path) in ("_explanation_plot", "display"):
            continue  # drawing is what they are for; they are imported where they are used
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            early += [f"{path.name}: {name}" for name in names if name.split(".")[0] in late]
    assert early == []


def test_no_file_takes_a_name_with_an_underscore_from_another():
    taken = [
        f"{path.name}: {alias.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skmoecbm.")
        for alias in node.names
        if alias.name.startswith("_")  # but for a module of its own folder
        if not hasattr(import_module(node.module), "__path__")
    ]
    assert taken == []


def test_no_file_is_longer_than_400_lines():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in source_files()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def public_names():
    names = [("skmoecbm", name) for name in skmoecbm.__all__]
    for path in FILES:
        if not room_of(path).startswith("_"):
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
