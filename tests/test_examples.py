"""The scripts in `examples/` run from start to end, and make the pictures that the docs show."""

import runpy
import time
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples():
    assert "plot_first_model.py" in [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_within_a_minute_and_draws(path, tmp_path, monkeypatch, capsys, request):
    if "SKMOECBM_TEST_DATA" in path.read_text(encoding="utf-8"):
        request.getfixturevalue("data_dir")  # skips where there are no real data
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    runpy.run_path(str(path), run_name="__main__")
    # CPU time of two cores: a busy machine must not fail a test.
    assert time.process_time() - start < 120
    pictures = list(tmp_path.glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            colours = image.convert("RGB").getcolors(1 << 24)
        assert len(colours) > 100, f"{picture.name} is almost empty"
    assert "balanced accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_made_of_cells_with_titles(path):
    cells = path.read_text(encoding="utf-8").split("\n# %%\n")
    assert len(cells) >= 3
    assert all(cell.startswith("# ") and "\n# --" in cell for cell in cells[1:])
