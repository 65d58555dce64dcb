"""`skmoecbm audit`, from the outside."""

import csv
import json

import pytest
from PIL import Image

from skmoecbm import audit, load
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions

N = 130


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """A folder of drawn lesions, a table with two columns more, and a model fitted on a part."""
    folder = tmp_path_factory.mktemp("audited")
    data = make_lesions(N, random_state=3)
    rows = []
    (folder / "photos").mkdir()
    for i, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        Image.fromarray(image).save(folder / "photos" / f"image{i}.png")
        split = "train" if i < 80 else "test"
        label = "nv" if label == "nv-like" else "mel"
        # lesion 39 is in both parts
        rows.append(
            [f"image{i}", label, (i - 1) // 2, split, 20 + i % 60 if i % 7 else "", "fm"[i % 2]]
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        header = ["image", "dx", "lesion", "split", "age", "sex"]
        csv.writer(file).writerows([header, *rows])
    options = ["fit", *table_options(folder), "--out", str(folder / "model")]
    options += ["--experts", "demo-general", "--concepts", "lesions"]
    assert main([*options, "--select-rows", "split=train"]) == 0
    return folder


def table_options(folder):
    return [
        *("--images", str(folder / "photos"), "--labels", str(folder / "labels.csv")),
        *("--image-column", "image", "--label-column", "dx", "--group-column", "lesion"),
    ]


def audit_options(folder):
    return [
        *("audit", str(folder / "model"), *table_options(folder)),
        *("--select-rows", "split=test", "--n-bootstrap", "20", "--n-random", "1"),
    ]


def test_the_audit_is_printed_and_written_and_is_that_of_python(lesions, tmp_path, capsys):
    options = [*audit_options(lesions), "--train-rows", "split=train", "--subgroups", "age", "sex"]
    outputs = tmp_path / "new" / "audit.json", tmp_path / "audit.html"
    options += ["--json", str(outputs[0]), "--html", str(outputs[1])]
    options += ["--checks", "leaks", "calibration", "language"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    told = json.loads(outputs[0].read_text(encoding="utf-8"))
    checks = {check["name"]: check for check in told["checks"]}
    assert list(checks) == ["leaks", "calibration", "language"]
    for check in checks.values():
        assert f"[{check['status']}]" in printed
    assert (told["n"], told["n_train"]) == (50, 80)
    leak = {row["name"]: row["value"] for row in checks["leaks"]["measures"]}
    assert leak["test rows that share a group with training rows"] == 1
    rows = checks["calibration"]["tables"]["subgroups"]
    assert {row["level"] for row in rows if row["column"] == "sex"} == {"f", "m"}
    levels = {row["level"] for row in rows if row["column"] == "age"}
    assert levels == {"< 30", "30 to < 50", "50 to < 70", ">= 70", "(missing)"}
    page = outputs[1].read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "skmoecbm-audit" in page
    assert "<script" not in page and "http" not in page

    images = [str(lesions / "photos" / f"image{i}.png") for i in range(80, N)]
    with (lesions / "labels.csv").open() as file:
        table = list(csv.DictReader(file))[80:]
    again = audit(
        load(lesions / "model"),
        images,
        [row["dx"] for row in table],
        groups=[row["lesion"] for row in table],
        n_bootstrap=20,
        checks="calibration",
    )
    measures = again.to_dict()["checks"][0]["measures"]
    assert measures == checks["calibration"]["measures"]


def test_without_the_rows_of_the_fit_the_audit_says_what_it_cannot_make(lesions, capsys):
    assert main([*audit_options(lesions), "--checks", "concepts", "leaks"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("[not made]") == 2
    assert "--train-rows on the command line" in " ".join(captured.out.split())
    assert "no --train-rows" in captured.err


def test_the_rows_of_the_fit_may_stand_in_another_table(lesions, tmp_path, capsys):
    with (lesions / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    other = tmp_path / "fitted.csv"
    with other.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(row for row in rows[1:] if row[3] == "train")])
    options = [*audit_options(lesions), "--train-labels", str(other), "--checks", "leaks"]
    assert main(options) == 0
    assert "1 of 50 test rows leak" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--subgroups", "height"], "no column 'height'"),
        (["--train-rows", "split=fit"], "--train-rows split=fit asks for"),
        (["--train-rows", "part=train"], "Name one with --train-rows."),
        (["--train-rows", "train"], "--train-rows must be COLUMN=VALUE"),
        (["--checks", "magic"], "--checks: there is no check 'magic'. Name some of leaks, "),
        (["--checks", "leak"], "--checks: there is no check 'leak'. Did you mean 'leaks'?"),
        (["--json", "."], "--json '.' is a folder"),
        (["--html", "LABELS"], "--html would write over"),
    ],
)
def test_a_mistake_is_one_sentence(lesions, capsys, change, words):
    change = [str(lesions / "labels.csv") if part == "LABELS" else part for part in change]
    assert main([*audit_options(lesions), *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("skmoecbm audit: error: ") and words in error, error
