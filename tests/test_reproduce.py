"""The tables of the sources: one command from images to a page, on any models."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import reproduce
from benchmarks._reproduce_report import _answer, _rare_answer
from tests.backbone_fixtures import write_cut_clip
from tests.datasets import trees


@pytest.mark.filterwarnings("ignore:.*texts are longer than the 12 tokens")
def test_the_command_runs_any_model_goes_on_where_it_was_and_makes_a_page(tmp_path, capsys):
    for seed, name in enumerate("ab"):
        write_cut_clip(tmp_path / name, seed=seed)
    trees.qu_ex(tmp_path / "data" / "covid_radiography")
    classes = ("covid-19", "non-covid infection", "normal")
    bank = {name: [f"red {k}", f"dot {k}", f"vein {k}"] for k, name in enumerate(classes)}
    (tmp_path / "bank.json").write_text(json.dumps(bank))
    out = tmp_path / "out"
    command = ["--data", tmp_path / "data", "--out", out, "--store", tmp_path / "store"]
    command += [
        "--datasets",
        "covid_radiography",
        "--shots",
        "1",
        "--concepts",
        tmp_path / "bank.json",
    ]
    command += ["--generalist", f"local-dir:{tmp_path / 'a'}"]
    command += ["--specialist", f"local-dir:{tmp_path / 'b'}"]

    def run(draws, large):
        options = [*command, "--draws", draws, "--large", f"local-dir:{tmp_path / large}"]
        reproduce.main([str(option) for option in options])
        return pd.read_csv(out / "runs-covid_radiography-official.csv").set_index(
            ["draw", "variant"]
        )

    first = run(1, "none")
    assert {"generalist", "average", "gate", "list each", "linear probe, both"} <= set(
        first.loc[0].index
    )
    assert first.loc[(0, "generalist, large"), "note"].startswith("skipped: ")
    again = run(2, "b")  # a second draw, and the large model that has come meanwhile
    assert np.isfinite(again.loc[(0, "generalist, large"), "accuracy"])
    assert not again.index.duplicated().any() and set(again.index.levels[0]) == {0, 1}
    kept = first.drop(index=(0, "generalist, large"))
    pd.testing.assert_frame_equal(again.loc[kept.index], kept, check_dtype=False)
    files = {path: path.read_bytes() for path in out.iterdir()}
    run(2, "b")
    assert files == {path: path.read_bytes() for path in out.iterdir()}

    reproduce.main(["--report", "--out", str(out)])
    page = (out / "README.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert f"# Experts: local-dir:{tmp_path / 'a'} + local-dir:{tmp_path / 'b'}" in page
    assert page.count("Not answered: no cell has 5 draws yet.") == 2
    assert page.count("**With these experts: ") == 1  # shares of experts need no draws
    assert "fewer than 20 draws of 1 shots" in page
    assert (out / "figure.png").stat().st_size > 10_000


def test_the_answer_is_what_most_cells_say():
    deciding = (("a", "b"), ("c", "b"))
    counts = {
        ("a", "b", "auroc"): ["better", "better", "no clear difference"],
        ("c", "b", "auroc"): ["worse", "no clear difference"],
    }
    told = _answer(counts, deciding)
    assert told.startswith(
        "**With these experts: in part.** 'a' is clearly better than 'b' in 2 of"
    )
    assert told.endswith(
        "'c' is clearly better than 'b' in 0 of 2 cells and metrics, clearly worse in 1."
    )
    assert "experts: yes" in _answer(counts, deciding[:1])
    assert "experts: no" in _answer(counts, deciding[1:])


@pytest.mark.parametrize(
    ("difference", "p", "spearman_p", "word"),
    [(0.1, 0.9, 0.01, "yes"), (0.1, 0.01, 0.9, "in part"), (-0.1, 0.01, 0.9, "no")],
)
def test_the_answer_on_rare_classes_looks_at_the_rarer_half(difference, p, spearman_p, word):
    table = pd.DataFrame(
        {
            "dataset": "d",
            "split": "s",
            "train_rows": [5, 9, 50, 80],
            "difference": [difference, 0.0, 0.5, 0.5],
            "p_adjusted": [p, 1.0, 0.001, 0.001],
            "p_overall": 0.01,
            "spearman": -0.5,
            "spearman_p_value": spearman_p,
        }
    )
    told = _rare_answer(table)
    assert told.startswith(
        f"**With these experts: {word}.** The share depends on the class in 1 of 1"
    )
    assert f"on {int(p < 0.05 and difference > 0)} of 2" in told
