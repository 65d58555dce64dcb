"""The site of `docs/` leaves nothing out and leads nowhere wrong, as far as can be told unbuilt.

Building it is a step of its own: `python tools/build_docs.py`, with warnings as errors.
"""

import ast
import csv
import importlib.util
import inspect
import os
import re
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.base import BaseEstimator

import skmoecbm
from skmoecbm import ConceptBottleneckClassifier, ExpertFeatures, GatedConceptBottleneckClassifier

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MARKDOWN = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def setting(name):
    """Return a setting of `docs/conf.py`, which is not run: it needs the tools of the site."""
    for node in ast.parse((DOCS / "conf.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"docs/conf.py has no {name}")


def reference():
    """Return (module, name) of each line of the reference."""
    listed, module, inside = [], None, False
    for line in (DOCS / "reference.rst").read_text("utf-8").splitlines():
        if line.startswith(".. module:: "):
            module = line.split()[-1]
        elif line.startswith(".. autosummary::"):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and re.fullmatch(r"   \w+", line):
            listed.append((module, line.strip()))
    return listed


def public_modules():
    package = Path(skmoecbm.__file__).parent
    names = {"skmoecbm"}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.add(".".join(parts))
    return [import_module(name) for name in sorted(names)]


def test_every_public_name_stands_in_the_reference_once():
    told = [getattr(import_module(module), name) for module, name in reference()]
    assert len({id(thing) for thing in told}) == len(told) > 100
    missing = [
        f"{module.__name__}.{name}"
        for module in public_modules()
        for name in module.__all__
        if not any(getattr(module, name) is thing for thing in told)
    ]
    assert missing == []


def test_what_the_package_itself_has_stands_under_the_package():
    assert {name for module, name in reference() if module == "skmoecbm"} == set(skmoecbm.__all__)
    strange = [(m, n) for m, n in reference() if n not in import_module(m).__all__]
    assert strange == []


def documented(thing):
    """Return the names in the sections Parameters and Attributes of a docstring."""
    text = inspect.getdoc(thing) or ""
    sections = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    told = [body for head, body in pairs if head in ("Parameters", "Attributes")]
    lines = re.findall(r"^(\S.*)$", "\n".join(told), re.MULTILINE)
    return {name.strip(" *") for line in lines for name in line.split(" : ")[0].split(",")}


def test_every_parameter_of_what_users_call_is_documented():
    bare = []
    for module, name in reference():
        thing = getattr(import_module(module), name)
        made = inspect.isclass(thing) and issubclass(thing, BaseEstimator)
        if inspect.isfunction(thing) or made:
            asked = set(inspect.signature(thing).parameters)
            bare += [f"{module}.{name}: {one}" for one in sorted(asked - documented(thing))]
    assert bare == []


def test_every_page_has_its_place():
    tree = setting("page_tree")
    placed = [e if isinstance(e, str) else e[1] for entries in tree.values() for e in entries]
    assert len(placed) == len(set(placed))
    pages = {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]} - {"index"}
    outside = setting("outside_pages")
    assert set(placed) == pages | set(outside.values()) | {"gallery/index"}
    assert [file for file in outside if not (ROOT / file).is_file()] == []


def test_no_page_has_a_name_that_sphinx_takes_for_itself():
    taken = {"search", "genindex", "modindex", "py-modindex"}
    assert {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]} & taken == set()


def extension(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def repository_links():
    return extension("repository_links")


def test_a_picture_opens_by_itself_unless_it_leads_elsewhere():
    linked = extension("whole_pictures").linked
    assert linked('a <img alt="b" src="../c.png" /> d') == (
        'a <a class="whole-picture" href="../c.png"><img alt="b" src="../c.png" /></a> d'
    )
    for other in (
        '<a href="e.html">\n<img src="c.png"></a>',
        '<img src="c_thumb.png">',
        "<b>f</b>",
    ):
        assert linked(other) == other


@pytest.mark.parametrize(
    ("link", "on_site"),
    [
        ("](mixture.md#gates)", "](mixture.md#gates)"),
        ("](images/house.svg)", "](images/house.svg)"),
        ("](../CHANGELOG.md)", "](outside/changelog.md)"),
        ("](../benchmarks/README.md#speed)", "](outside/measured.md#speed)"),
        ("](../examples/plot_share.py)", "](gallery/plot_share.rst)"),
        ("](../examples/)", "](gallery/index.rst)"),
        ("](../README.md)", "](index.md)"),
        ("](../skmoecbm/concepts/rules/leak.json)", "](../skmoecbm/concepts/rules/leak.json)"),
        ("](https://example.org/a.md)", "](https://example.org/a.md)"),
        ("](#here)", "](#here)"),
    ],
)
def test_links_of_the_repository_lead_to_pages_of_the_site(link, on_site):
    rewrite, pages = repository_links().rewrite, setting("outside_pages")
    assert rewrite(f"[word{link}", "docs/start.md", "start", pages) == f"[word{on_site}"


def test_every_page_that_a_page_leads_to_is_on_the_site():
    links, pages = repository_links(), setting("outside_pages")
    seen = {path: path.relative_to(ROOT) for path in MARKDOWN}
    seen |= {ROOT / file: Path(file) for file in pages}
    lost = []
    for path, file in seen.items():
        text = links.FENCE.sub("", path.read_text("utf-8"))
        for target, _ in links.LINK.findall(text):
            there = Path(os.path.normpath(file.parent / target)).as_posix()
            known = there in pages or there == "README.md" or there.startswith("docs/")
            if there.endswith(".md") and not (known and (ROOT / there).is_file()):
                lost.append(f"{file}: {target}")
    assert lost == []


def test_links_of_a_page_from_outside_are_seen_from_its_new_place():
    rewrite, pages = repository_links().rewrite, setting("outside_pages")
    text = "[a](figure.png) [b](../../README.md) [c](../../../docs/mixture.md#gates)"
    file = "benchmarks/results/peers/README.md"
    assert rewrite(text, file, pages[file], pages) == (
        "[a](../../benchmarks/results/peers/figure.png) [b](measured.md) [c](../mixture.md#gates)"
    )


def test_code_in_a_page_keeps_what_looks_like_a_link():
    rewrite = repository_links().rewrite
    text = "```py\nx[0](../CHANGELOG.md)\n```\n"
    assert rewrite(text, "docs/start.md", "start", setting("outside_pages")) == text


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_what_a_page_says_to_run_is_there(page):
    text = page.read_text("utf-8")
    files = [f"benchmarks/{name}.py" for name in re.findall(r"-m benchmarks\.(\w+)", text)]
    files += re.findall(r"\b((?:tools|examples)/\w+\.py)\b", text)
    files += re.findall(r"`((?:skmoecbm|tests|docs)/[\w/]+\.\w+)`", text)
    own = {"skmoecbm/_mygate.py", "skmoecbm/concepts/banks/myset.json"}
    invented = {name for name in files if "myset" in name or "_build" in name} | own
    assert [name for name in files if name not in invented and not (ROOT / name).exists()] == []


def test_letters_of_how_it_works_are_what_the_model_has():
    rng = np.random.default_rng(0)
    sizes = {"n": 60, "K": 3, "E": 2}
    shapes = {"a": (5, 8), "b": (4, 6)}
    features = ExpertFeatures.from_embeddings(
        {
            name: (
                rng.normal(size=(60, d)),
                rng.normal(size=(m, d)),
                [f"word {j}" for j in range(m)],
            )
            for name, (m, d) in shapes.items()
        }
    )
    labels = np.arange(60) % 3
    classifier = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), guard=False
    ).fit(features, labels)
    rows = re.findall(
        r"^\| \$.*? \| (.*?) \| .*? \| (`.*?`) \|$",
        (DOCS / "how_it_works.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 9
    for shape, places in rows:
        wanted = [
            tuple(part.strip() for part in one.replace("$", "").split(r"\times"))
            for one in shape.split(",")
        ]
        codes = re.findall("`(.*?)`", places)
        for index, code in enumerate(codes):
            for e, (m, d) in enumerate(shapes.values()):
                known = {**sizes, "m_e": m, "d_e": d}
                got = eval(code, {"numpy": np}, {"e": e, **locals()})
                letters = wanted[min(index, len(wanted) - 1)]
                assert np.shape(got) == tuple(known[letter] for letter in letters), code


def few_shots():
    """Return data set, shots, arm -> mean balanced accuracy, as the benchmark stored it."""
    with (ROOT / "benchmarks" / "results" / "few_shot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(r["dataset"], r["shots"], r["arm"]): float(r["balanced_accuracy"]) for r in rows}


FEW_SHOT_DATA = {
    "HAM10000": "ham10000",
    "RetinaMNIST": "retinamnist",
    "drawn lesions": "lesions",
    "digits, each row shown to one expert": "digits-varies",
    "digits, both experts good": "digits-both",
    "digits, one expert useless": "digits-useless",
}


def test_tables_of_few_shots_are_the_stored_runs():
    stored = few_shots()
    joint = ("joint, published sign", "joint, right sign", "joint, no entropy")
    singles = {"left", "right", "demo-general", "demo-structures"}
    arms = {
        "best single": lambda cell: max(v for arm, v in cell.items() if arm in singles),
        "plain average": lambda cell: cell["average"],
        "together": lambda cell: max(cell[arm] for arm in joint),
        "experts first": lambda cell: cell["default"],
        "default": lambda cell: cell["default"],
        "gate, no guard": lambda cell: cell["no guard"],
    }
    compared, data = 0, None
    for page in ("mixture.md", "decisions.md"):
        shots = []
        for line in (DOCS / page).read_text("utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[-6:] == ["1", "4", "8", "16", "50", "all"]:
                shots = cells[-6:]
            elif not line.startswith("|"):
                shots = []
            if not shots or not re.match(r"\.\d", cells[-1]):
                continue
            data = FEW_SHOT_DATA[cells[0]] if cells[0] else data
            told = ["best single", "plain average", "together", "default"]
            told = told if len(cells) == 7 else [cells[1]]
            for n, cell in zip(shots, cells[-6:], strict=True):
                kept = {arm: v for (d, k, arm), v in stored.items() if (d, k) == (data, n)}
                for name, number in zip(told, cell.split(" / "), strict=True):
                    near = 0.5 * 10.0 ** -len(number.lstrip(".")) + 6e-5
                    assert abs(float(number) - arms[name](kept)) <= near, (page, line, n)
                    compared += 1
    assert compared == 6 * 6 * 4 + 6 * 6 + 6 * 6


def test_the_diagram_is_whole_and_asks_for_nothing():
    text = (DOCS / "images" / "house.svg").read_text("utf-8")
    assert ElementTree.fromstring(text).get("aria-label")
    assert [link for link in re.findall(r'href="([^"]*)"', text) if link[:5] != "data:"] == []
