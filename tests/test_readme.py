"""What README and docs show is run: Python as it stands, commands through the parser."""

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from skmoecbm.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#]+)\)")


def blocks(page, language):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def shell_lines(page):
    """Return the shell commands of a page: its bash blocks and, in Markdown, indented lines."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^ {4}(.*)$", BLOCK.sub("", text), re.MULTILINE)
    lines = "\n".join([*blocks(page, "bash"), *indented]).replace("\\\n", " ")
    return [part for line in lines.splitlines() for part in line.split("&&") if part.strip()]


def commands_of(page):
    lines = [shlex.split(line, comments=True) for line in shell_lines(page)]
    return [words[1:] for words in lines if words and words[0] == "skmoecbm"]


# Pages whose code needs an extra: they run where it is installed, as `[test]` does.
NEEDS = {"scaling.md": "pyarrow", "dicom.md": "pydicom"}
PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]
# Pictures that no page saves, and what draws them.
OTHERS = {
    "explained.png": "skmoecbm demo",
    "few_shot.png": "benchmarks/few_shot.py",
    "house.svg": "tools/draw_house.py",
    "report.png": "a screen shot of docs/report.md's report",
}


def pictures_of(page):
    """Return the names of the pictures on a page that its own Python saves."""
    shown = re.findall(r"!\[[^\]]*\]\((?:docs/)?images/([^)]+)\)", page.read_text(encoding="utf-8"))
    return [name for name in shown if name not in OTHERS]


def test_readme_and_the_start_page_hold_python():
    assert {page.name for page in PYTHON_PAGES} >= {"README.md", "start.md"}


# A block of Python, and what stands below it as printed, if anything does.
SHOWN = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def same_but_for_digits(told, printed):
    """Tell whether words are the same and numbers near: other processors round otherwise."""
    told, printed = ([" ".join(line.split()) for line in t.splitlines()] for t in (told, printed))
    told, printed = ([line for line in lines if line] for lines in (told, printed))
    if [NUMBER.sub("#", line) for line in told] != [NUMBER.sub("#", line) for line in printed]:
        return False
    pairs = zip(NUMBER.findall(" ".join(told)), NUMBER.findall(" ".join(printed)), strict=True)
    return all(abs(float(a) - float(b)) <= 0.05 + 0.05 * abs(float(b)) for a, b in pairs)


@pytest.mark.parametrize(
    ("told", "printed", "same"),
    [
        ("loss 0.85\n", "loss  0.87\n\n", True),
        ("loss 0.85", "loss 0.95", False),
        ("loss 0.85", "gain 0.85", False),
        ("490 images", "140 images", False),
        ("one 1", "one 1\ntwo 2", False),
    ],
)
def test_what_counts_as_the_same_output(told, printed, same):
    assert same_but_for_digits(told, printed) is same


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    shown = SHOWN.findall(page.read_text(encoding="utf-8"))
    assert [code for code, _ in shown] == blocks(page, "python")
    for code, told in shown:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        if told:
            assert same_but_for_digits(told, printed.getvalue()), printed.getvalue()
    if "explained.png" in "".join(blocks(page, "python")):
        assert (tmp_path / "explained.png").stat().st_size > 10_000
    for name in pictures_of(page):
        assert [path.stat().st_size > 2000 for path in tmp_path.rglob(name)] == [True], name


def test_the_start_page_shows_what_each_step_prints():
    assert sum(told != "" for _, told in SHOWN.findall((ROOT / "docs/start.md").read_text())) >= 6


def test_the_guides_show_what_their_code_draws():
    drawn = {page.stem for page in PYTHON_PAGES if pictures_of(page)}
    assert drawn >= {"concepts", "datasets", "experts", "explain", "hub", "intervene", "labels"}
    assert drawn >= {"audit", "mixture", "moe", "scaling", "searching", "sets"}
    assert OTHERS.keys() <= {path.name for path in (ROOT / "docs" / "images").iterdir()}


def test_the_readme_shows_every_command_of_its_folder_recipe():
    assert [words[0] for words in commands_of(ROOT / "README.md")] == [
        "demo",
        "fit",
        "explain",
        "predict",
        "evaluate",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_understood(page, capsys):
    for words in commands_of(page):
        try:
            assert build_parser().parse_args(words).run
        except SystemExit as stop:
            assert stop.code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"


def test_every_command_has_its_section_in_the_docs():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    actions = [action for action in build_parser()._actions if action.choices]
    titles = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE)).replace(",", "").split()
    assert sorted(titles) == sorted(actions[0].choices)


def test_every_option_of_fit_is_described_in_the_docs():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    actions = [action for action in build_parser()._actions if action.choices]
    options = [
        option for action in actions[0].choices["fit"]._actions for option in action.option_strings
    ]
    public = [option for option in options if option.startswith("--") and option != "--help"]
    assert [option for option in public if option not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text("utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_extras_and_python_version_that_the_docs_name_are_real():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = " ".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"pip install '\.\[(\w+)\]'", text))
    assert named >= {"test"}
    assert named <= set(project["optional-dependencies"])
    floor = project["requires-python"].removeprefix(">=")
    assert set(re.findall(r"Python (\d\.\d+) or later", text)) == {floor}


def test_the_changelog_has_an_entry_for_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## (Unreleased|\[?0\.1)", text, re.MULTILINE)
