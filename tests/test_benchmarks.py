"""The measurements: each can be called, is told of, and the one command gathers what they find."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if not path.stem.startswith("_") and "def main(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_tells_its_command_and_stands_on_the_page(name):
    text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    assert f"python -m benchmarks.{name}" in text.split('"""')[1]
    assert "def main(argv=None" in text
    assert f"`{name}`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_one_command_knows_only_benchmarks_that_are_there():
    command = importlib.import_module("benchmarks.__main__")
    assert set(command.BENCHMARKS) <= set(MODULES)


def test_the_page_marks_what_the_one_command_runs():
    command = importlib.import_module("benchmarks.__main__")
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    marks = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", page, re.MULTILINE))
    assert {name for name, mark in marks.items() if mark == "yes"} == set(command.BENCHMARKS)
    assert {name for name, mark in marks.items() if mark == "no"} == {
        "gpu",
        "gpu_fit",
        "where_time_goes",
    }


def test_every_column_has_a_heading_and_bars_are_explained():
    from benchmarks._results import BARS, table

    headings = [cell.strip() for cell in table([]).splitlines()[0].strip("|").split("|")]
    assert headings[-1] == "bar met" and all(headings)
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for text in (BARS, " ".join(page.split())):
        assert "A quick run may miss bars that hold at full size" in text


@pytest.mark.parametrize(
    ("values", "bar", "most", "verdict"),
    [
        ([9.0, 11.0, 12.0], 10, False, "met"),
        ([9.0, 9.5, 12.0], 10, False, "missed"),
        ([0.2, 0.3, 9.0], 0.35, True, "met"),
        ([0.2, 0.4, 0.5], 0.35, True, "missed"),
        ([1.0], None, False, "-"),
    ],
)
def test_a_bar_is_held_against_the_median(values, bar, most, verdict):
    from benchmarks._results import Ratio

    assert Ratio("a / b", values, bar, most).verdict == verdict


def test_what_a_benchmark_reports_comes_back_from_the_file(tmp_path, monkeypatch, capsys):
    from benchmarks._results import FILE, Ratio, report

    command = importlib.import_module("benchmarks.__main__")
    file = tmp_path / "ratios.jsonl"
    monkeypatch.setenv(FILE, str(file))
    told = [Ratio("a / b", [3.0, 4.0], 2), Ratio("bytes", [7.0], 5, most=True)]
    report("first", told)
    report("second", told[:1])
    assert command.read(file) == [("first", told[0]), ("first", told[1]), ("second", told[0])]
    row = re.search(r"\| first \| bytes .*", capsys.readouterr().out).group()
    assert row.endswith("| ≤ 5 | missed |")


def test_a_benchmark_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch, capsys):
    command = importlib.import_module("benchmarks.__main__")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "BENCHMARKS", {"lint": ("no-such-folder", ""), "json": ("", "")})
    real, calls = command.subprocess.run, []

    def run(arguments, **options):
        if arguments[1:2] != ["-m"]:  # the standard library asks for the processor's name
            return real(arguments, **options)
        calls.append(arguments[2])
        # In the place of the second benchmark a process that only hands a number over.
        line = {"benchmark": "json", "what": "x", "values": [1.0], "bar": None, "most": False}
        code = f"import os; open(os.environ['{command.FILE}'], 'w').write({json.dumps(line)!r})"
        if arguments[2] == "benchmarks.json":
            arguments = [sys.executable, "-c", code]
        return real(arguments, **options)

    monkeypatch.setattr(command.subprocess, "run", run)
    out = tmp_path / "table.md"
    assert command.main(["--out", str(out)]) == 1
    assert calls == ["benchmarks.lint", "benchmarks.json"]
    page = out.read_text(encoding="utf-8")
    assert "Did not come to their end: lint." in page and "| json | x | 1 |" in page
    assert command.BARS in page


def test_fits_on_a_gpu_are_compared_or_said_to_need_one(capsys, monkeypatch):
    from benchmarks import gpu_fit

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_fit.main([]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
    options = ["--rows", "200", "--concepts", "8", "--epochs", "1", "--repeats", "1"]
    assert gpu_fit.main(options, device="cpu") == 0
    printed = capsys.readouterr().out
    assert "associations apart by 0.0e+00" in printed and "sparse mixture, 200 rows" in printed
