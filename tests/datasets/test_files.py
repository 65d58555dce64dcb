"""Images and tables below a folder."""

import os

import numpy as np
import pytest

from skmoecbm.datasets._files import images_below, keep_present, readable, walk
from skmoecbm.datasets._tables import column_of, find_table, read_frame, tables_below
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from tests.datasets import trees


def test_links_that_lead_back_are_no_endless_way(tmp_path):
    trees.image(tmp_path / "a" / "one.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    trees.image(elsewhere / "two.png", 2)
    (tmp_path / "b").symlink_to(elsewhere, target_is_directory=True)
    assert sorted(images_below(tmp_path)) == ["one", "two"]
    assert [files for _, files in walk(tmp_path)] == [[], ["one.png"], ["two.png"]]


def test_hidden_files_and_named_folders_are_left_out(tmp_path):
    for place in ("a.PNG", ".hidden/b.png", "Masks/c.png", "deep/er/d.jpeg", "._a.png", "e.txt"):
        trees.image(tmp_path / "x.png")
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert sorted(images_below(tmp_path, skip=("masks",))) == ["a", "d", "x"]
    assert [files for _, files in walk(tmp_path, depth=0)] == [["a.PNG", "e.txt", "x.png"]]


def test_files_of_one_name_and_size_are_copies_only_if_they_hold_the_same(tmp_path):
    for place, content in (("a/1.dcm", b"anna"), ("b/1.dcm", b"anna"), ("b/2.dcm", b"bert")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(content)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "2.dcm").symlink_to(tmp_path / "b" / "2.dcm")
    found = images_below(tmp_path)
    assert found == {"1": str(tmp_path / "a" / "1.dcm"), "2": str(tmp_path / "b" / "2.dcm")}
    times = (tmp_path / "a" / "1.dcm").stat()
    (tmp_path / "b" / "1.dcm").write_bytes(b"bert")
    os.utime(tmp_path / "b" / "1.dcm", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"Two different images are called '1': .*a.1.*b.1"):
        images_below(tmp_path)
    (tmp_path / "b" / "1.dcm").unlink()
    (tmp_path / "b" / "1.dcm").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cannot be read whether .* Remove one of them\.$"):
        images_below(tmp_path)


def test_tables_are_found_by_their_columns(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.csv").write_text('\ufeff"Image Index",b\n1,2\n', encoding="utf-8")
    (tmp_path / "two.tab").write_text("image\tB\tc\n1\t2\t3\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    tables = tables_below(tmp_path)
    assert [path.name for path in tables] == ["binary", "two.tab", "one.csv"]
    columns = [("Image Index", "image"), "b"]
    assert find_table(tables, [*columns, "c"]).name == "two.tab"
    assert find_table(tables, columns, known=("One",)).name == "one.csv"
    assert find_table(tables, ["d"]) is None
    with pytest.raises(
        InputError, match=r"Several tables could be that of X: .*two.tab'.*one.csv'"
    ):
        find_table(tables, columns, name="X")
    assert read_frame(tables[1], name="X").columns.tolist() == ["image", "B", "c"]
    assert read_frame(tables[2], name="X").columns.tolist() == ["Image Index", "b"]
    assert column_of(["A", "b"], ("x", "a")) == "A"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read: "),
        ("a,b\n", "has no rows"),
        ("a\n1\n", "has no column 'b'; it has 'a'"),
        ("a,b\n1,2\n1,2,3,4\n", "cannot be read: "),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_frame(tmp_path / "t.csv", name="X", columns=["a", "b"])
    with pytest.raises(InputError, match="cannot be read"):
        read_frame(tmp_path / "none.csv", name="X")


def test_rows_without_an_image_are_told():
    said = {"name": "X", "root": "/x", "remedy": "Get it."}
    paths, ids = ["a", None, "c", None], list("abcd")
    here = keep_present(paths, ids, on_missing="ignore", **said)
    assert here.tolist() == [True, False, True, False]
    with pytest.warns(SkmoecbmWarning, match=r"2 of the 4 images .* '/x'; the first is 'b'"):
        keep_present(paths, ids, on_missing="warn", **said)
    with pytest.raises(InputError, match=r"2 of the 4 .* Get it\. on_missing='warn' leaves"):
        keep_present(paths, ids, on_missing="raise", **said)
    with pytest.raises(InputError, match=r"4 of the 4 .* Get it\.$"):
        keep_present([None] * 4, ids, on_missing="ignore", **said)
    assert keep_present(["a"], ["a"], on_missing="raise", **said).all()


def test_codes_become_names_and_names_stay():
    said = {"name": "X", "column": "dx", "ids": list("abc")}
    names = readable(["m", " nevus ", "n"], {"m": "melanoma", "n": "nevus"}, **said)
    np.testing.assert_array_equal(names, ["melanoma", "nevus", "nevus"])
    with pytest.raises(
        InputError, match=r"In column 'dx' of X 1 row has something .*; the first is 'b' with 'n"
    ):
        readable(["m", float("nan"), "n"], {"m": "melanoma", "n": "nevus"}, **said)
