"""Which image a cell of a table means, and which it must not."""

import warnings
from pathlib import Path

import pandas as pd
import pytest

from skmoecbm.datasets import load_image_folder
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.datasets.local_trees import image


def found(root, *cells, **options):
    table = pd.DataFrame({"path": cells, "label": ["a", "b", "a", "b"][: len(cells)]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkmoecbmWarning)
        data = load_image_folder(root, table, on_missing="warn", **options)
    return [Path(path).relative_to(root).as_posix() for path in data.images]


def test_no_cell_finds_the_image_of_another_patient(tmp_path):
    for k in (1, 2):
        image(tmp_path / f"p{k}" / "1.bmp", k)  # of one size
    image(tmp_path / "p1" / "2.bmp", 3)
    table = pd.DataFrame({"path": ["p1/1.bmp", "p3/1.bmp", "p2/2.bmp"], "label": ["a", "b", "a"]})
    with pytest.raises(InputError, match=r"2 of the 3 images .*the first is 'p3/1.bmp'"):
        load_image_folder(tmp_path, table)
    assert found(tmp_path, "p1/1.bmp", "p3/1.bmp", "p2/2.bmp", "../p1/2.bmp") == ["p1/1.bmp"]
    # a name alone that fits two images that differ is told; one of a copy is not
    for cell in ("1.bmp", "1", "1.png"):
        with pytest.raises(InputError, match=rf"'{cell}' may be '.*p1/1.bmp' or '.*p2/1.bmp'"):
            found(tmp_path, cell)
    image(tmp_path / "copy" / "2.bmp", 3)
    assert found(tmp_path, "2") == ["copy/2.bmp"]
    assert found(tmp_path, "p1/2") == found(tmp_path, "p1/2.png") == ["p1/2.bmp"]
    # both are there of only one: the other must not pass for it
    assert found(tmp_path, "p1/2.bmp", "p1/2.png") == ["p1/2.bmp"]
    assert found(tmp_path.parent, f"{tmp_path.name}/p1/1.bmp") == [f"{tmp_path.name}/p1/1.bmp"]


def test_paths_of_another_machine_need_a_folder_that_fits(tmp_path):
    for k in (1, 2):
        image(tmp_path / "study" / f"p{k}" / "images" / "1.bmp", k)
    there = ["study/p2/images/1.bmp", "study/p1/images/1.bmp"]
    for start in ("D:\\x\\study\\", "/home/else/study/", "\\\\server\\", "s3://bucket/study/"):
        mark = "/" if start[-1] == "/" else "\\"
        cells = [start + mark.join([f"p{k}", "images", "1.bmp"]) for k in (2, 1)]
        assert found(tmp_path, *cells) == there
        # that of a third patient has the folder "images" as well, and fits both
        with pytest.raises(InputError, match=r"which differ\. Write paths below the folder"):
            found(tmp_path, start + mark.join(["p3", "images", "1.bmp"]))
    (tmp_path / there[1]).unlink()
    # now it fits one, whose own cell fits better
    assert found(tmp_path, "D:\\p2\\images\\1.bmp", "D:\\p3\\images\\1.bmp") == there[:1]
    with pytest.raises(InputError, match="2 of the 2 images"):
        found(tmp_path, "D:\\p3\\images\\1.bmp", "D:\\p4\\images\\1.bmp")
    with pytest.raises(InputError, match="1 of the 1 images"):
        found(tmp_path, "D:\\1.bmp")


def test_an_identifier_with_dots_is_no_name_with_an_ending(tmp_path):
    for name in ("1.2", "1.2.3"):
        image(tmp_path / f"{name}.png")
    assert found(tmp_path, "1.2.3", "1.2") == ["1.2.3.png", "1.2.png"]
    assert found(tmp_path, "1.2", "1.2.4") == ["1.2.png"]
