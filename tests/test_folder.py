"""Reading a folder of images and a table of labels."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from skmoecbm._folder import (
    Places,
    find_images,
    list_images,
    read_label_map,
    read_labelled_images,
    unify_labels,
)
from skmoecbm.exceptions import InputError


@pytest.fixture
def folder(tmp_path):
    """Six images, some in sub-folders, with various endings, and a file that is no image."""
    for name in ("a.jpg", "b.PNG", "deep/er/c.tiff", "deep/d.webp", "one/e.png", "two/e.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def write_table(folder, text):
    path = folder.parent / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder, text, **options):
    options = {"image_column": "id", "label_column": "dx"} | options
    return read_labelled_images(folder, write_table(folder, text), **options)


def error(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_images_are_found_by_stem_name_and_relative_path(folder):
    found = find_images(folder, ["a", "b", "c", "d.webp", "deep/er/c.tiff", "one/e.png", "zzz"])
    names = [None if path is None else path.relative_to(folder).as_posix() for path in found]
    assert names == [
        "a.jpg",
        "b.PNG",
        "deep/er/c.tiff",
        "deep/d.webp",
        "deep/er/c.tiff",
        "one/e.png",
        None,
    ]


def test_an_identifier_with_two_files_is_an_error_that_names_both(folder):
    message = error(find_images, folder, ["e"])
    assert "'e' fits 2 files" in message
    assert "one/e.png" in message and "two/e.png" in message


def test_a_dot_in_an_identifier_is_not_an_ending(folder):
    Image.new("RGB", (2, 2)).save(folder / "1.2.840.png")
    assert find_images(folder, ["1.2.840"]) == [folder / "1.2.840.png"]
    assert find_images(folder, ["1.2"]) == [None]


def test_folders_are_listed_in_order_and_files_taken_as_they_are(folder):
    found = [path.name for path in list_images([folder / "notes.txt", folder / "deep"])]
    assert found == ["notes.txt", "d.webp", "c.tiff"]


def test_listing_what_is_not_there_is_an_error(folder, tmp_path):
    assert "'nowhere.png' does not exist" in error(list_images, ["nowhere.png"])
    (tmp_path / "bare").mkdir()
    assert "holds no image" in error(list_images, [tmp_path / "bare"])
    assert "does not exist" in error(find_images, tmp_path / "gone", ["a"])
    assert "is a file" in error(find_images, folder / "a.jpg", ["a"])


def test_rows_keep_the_order_of_the_table(folder):
    data = read(folder, "id,dx,who\nb,nv,2\na, mel ,1\n", group_column="who")
    assert [path.name for path in data.images] == ["b.PNG", "a.jpg"]
    assert data.labels.tolist() == ["nv", "mel"]
    assert data.groups.tolist() == ["2", "1"]
    assert data.n_without_file == 0


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator_and_a_byte_order_mark_are_read(folder, separator):
    text = "\ufeffid,dx\na,nv\nb,mel\n".replace(",", separator)
    assert read(folder, text).labels.tolist() == ["nv", "mel"]


def test_identifiers_and_labels_stay_text(folder):
    Image.new("RGB", (2, 2)).save(folder / "007.png")
    data = read(folder, "id,dx\n007,None\na,1\n")
    assert data.images[0].name == "007.png"
    assert data.labels.tolist() == ["None", "1"]


def test_rows_are_selected_by_all_conditions(folder):
    text = "id,dx,split,site\na,nv,train,x\nb,mel,train,y\nc,mel,val,y\n"
    data = read(folder, text, select_rows=["split=train", "site=y"])
    assert [path.name for path in data.images] == ["b.PNG"]


ROWS = 'id,dx,split,site\na,nv,train,x\nb, mel,train,y\nc,bcc,val,x\nd.webp,mel,val,"x, y"\n'


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["dx=mel,nv"], ["a.jpg", "b.PNG", "d.webp"]),
        (["dx=mel, nv", "split=train"], ["a.jpg", "b.PNG"]),
        (["dx=mel,bcc", "split=val", "dx=bcc"], ["c.tiff"]),
        (["site=x, y"], ["d.webp"]),
    ],
)
def test_several_values_of_a_column_are_one_condition(folder, conditions, names):
    data = read(folder, ROWS, select_rows=conditions)
    assert [path.name for path in data.images] == names


def test_conditions_that_exclude_each_other_are_told_one_by_one(folder):
    message = error(read, folder, ROWS, select_rows=["split=val", "dx=mel", "dx=nv"])
    steps = "split=val leaves 2 of 4 rows, then dx=mel leaves 1 of 2 rows, then dx=nv leaves 0 of 1"
    assert steps in message and "--select-rows dx=VALUE,VALUE" in message
    message = error(read, folder, ROWS, select_rows=["split=val", "dx=nv"])
    assert "dx=nv leaves 0 of 2 rows" in message and "VALUE,VALUE" not in message


def test_a_value_that_no_row_has_is_named_with_those_there_are(folder):
    message = error(read, folder, ROWS, select_rows=["split=train", "dx=mel,nevus"])
    assert "'nevus' in column 'dx'" in message and "'mel'" in message.partition("holds")[2]
    assert "'bcc'" in message  # of the whole table, not of what an earlier condition left


def test_a_selection_that_leaves_nothing_says_what_there_is(folder):
    message = error(read, folder, "id,dx,split\na,nv,train\n", select_rows=["split=test"])
    assert "No row" in message and "'train'" in message
    message = error(read, folder, "id,dx\na,nv\n", select_rows=["split"])
    assert "COLUMN=VALUE" in message and "'split'" in message


def test_missing_files_are_counted_and_the_first_named(folder):
    rows = "".join(f"x{number},nv\n" for number in range(1200))
    message = error(read, folder, f"id,dx\na,nv\n{rows}")
    assert "1,200 of 1,201 images" in message
    listed = ", ".join(f"line {number + 3} ('x{number}')" for number in range(5))
    assert f": labels.csv {listed} and 1,195 more." in message
    assert "--on-error missing" in message


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("gone,nv,1", "labels.csv line 7 ('gone')"),
        ("a, ,1", "nothing in column 'dx': labels.csv line 7 ('a')"),
        ("a,mel,", "nothing in column 'who': labels.csv line 7 ('a')"),
        ("a,mel", "nothing in column 'who': labels.csv line 7 ('a')"),
        ("e,mel,1", "The image 'e' (labels.csv line 7) fits 2 files"),
        ("a,mel,1,x", "labels.csv line 7 has 4 cells, but the header of"),
        ('a,"mel,1', "cannot be read as CSV: labels.csv line 7: "),
        ('a,"m"el,1', "cannot be read as CSV: labels.csv line 7: "),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_error_names_the_line_that_an_editor_shows(folder, bad, words, end):
    """After an empty line, a line break within a cell and rows that are not selected."""
    text = f'id,dx,who\nb,nv,2\n\nc,"n\nv",3\nb,nv,3\n{bad}\nb,nv,4\nd,nv,3\n'
    path = folder.parent / "labels.csv"
    path.write_bytes(text.replace("\n", end).encode())
    options = {"image_column": "id", "label_column": "dx", "group_column": "who"}
    assert words in error(read_labelled_images, folder, path, **options)


def test_places_follow_the_rows_that_are_selected_and_have_a_file(folder):
    text = "id,dx,use\na,nv,no\ngone,nv,yes\nb,mel,yes\n\nc,nv,yes\n"
    data = read(folder, text, select_rows=["use=yes"], skip_missing=True)
    assert [data.places[row] for row in range(2)] == ["labels.csv line 4", "labels.csv line 6"]


def test_empty_cells_beyond_the_header_and_lines_of_blanks_are_no_rows(folder):
    data = read(folder, "id,dx\na,nv,,\n   \nb,mel, \n")
    assert data.labels.tolist() == ["nv", "mel"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_column": "label"}, "Name one with --label-column."),
        ({"image_column": "label"}, "Name one with --image-column."),
        ({"group_column": "label"}, "Name one with --group-column."),
        ({"select_rows": ["label=x"]}, "Name one with --select-rows."),
        ({"label_column": "dx"}, "has 2 columns named 'dx'. Its columns are 'id', 'dx', 'dx'."),
    ],
)
def test_a_wrong_column_names_its_option_and_the_columns_there_are(folder, options, words):
    message = error(read, folder, "id,dx,dx\na,nv,1\n", **{"label_column": "id", **options})
    assert words in message and "'id', 'dx'" in message


def test_missing_files_can_be_left_out_with_their_labels(folder):
    data = read(
        folder, "id,dx,who\na,nv,1\ngone,mel,2\nb,bcc,3\n", group_column="who", skip_missing=True
    )
    assert data.labels.tolist() == ["nv", "bcc"]
    assert data.groups.tolist() == ["1", "3"]
    assert data.n_without_file == 1


def test_no_file_at_all_is_an_error_even_then(folder):
    assert "2 of 2 images" in error(read, folder, "id,dx\np,nv\nq,nv\n", skip_missing=True)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("id,dx\na,\nb,nv\n", {}, ["1 of 2 rows", "'dx'", "'a'"]),
        ("id,dx,who\na,nv, \n", {"group_column": "who"}, ["1 of 1 rows", "'who'"]),
        ("id,dx\n", {}, ["no rows"]),
        ("", {}, ["empty"]),
        ("id,dx\na,nv\n", {"label_column": "label"}, ["no column 'label'", "'id', 'dx'"]),
        ('id,dx\na,"nv\nb,nv\n', {}, ["cannot be read as CSV"]),
    ],
)
def test_a_bad_table_is_one_clear_sentence(folder, text, options, words):
    message = error(read, folder, text, **options)
    assert all(word in message for word in words), message


def test_an_absent_or_binary_table_is_one_clear_sentence(folder):
    options = {"image_column": "id", "label_column": "dx"}
    assert "does not exist" in error(read_labelled_images, folder, folder / "no.csv", **options)
    assert "cannot be read" in error(read_labelled_images, folder, folder / "b.PNG", **options)


def test_a_label_map_renames_and_leaves_the_rest(folder, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"M": "mel"}))
    data = read(folder, "id,dx\na,M\nb,nv\n", label_map=read_label_map(path))
    assert data.labels.tolist() == ["mel", "nv"]
    path = tmp_path / "map.csv"
    path.write_text("from,to\nM,mel\n1,nv\n")
    assert read_label_map(path) == {"M": "mel", "1": "nv"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.json", "[1, 2]", "JSON object"),
        ("map.json", '{"a": 1}', "JSON object"),
        ("map.json", "{", "cannot be read as JSON"),
        ("map.csv", "a,b,c\n1,2,3\n", "two columns"),
    ],
)
def test_a_bad_label_map_is_one_clear_sentence(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    assert words in error(read_label_map, tmp_path / name)
    assert "does not exist" in error(read_label_map, tmp_path / "gone" / name)


KEYS = {"mel": "m", "melanoma": "m", "m": "m", "nv": "n", "nevus": "n", "n": "n"}
BANK = SimpleNamespace(
    name="skin",
    class_keys=["m", "n"],
    match_labels=lambda labels: {label: KEYS.get(label.lower()) for label in labels},
)
CLASSLESS = SimpleNamespace(name="plain", class_keys=[])


def test_labels_that_mean_one_class_take_the_most_frequent_spelling():
    labels = ["Melanoma", "mel", "nv", "mel", "nv"]
    assert unify_labels(labels, BANK).tolist() == ["mel", "mel", "nv", "mel", "nv"]


def test_labels_are_spelled_as_the_fitted_classes_are():
    assert unify_labels(["Melanoma", "nevus"], BANK, known=["mel", "nv"]).tolist() == ["mel", "nv"]
    assert unify_labels(["mel"], CLASSLESS, known=["mel", "nv"]).tolist() == ["mel"]


def test_a_bank_without_classes_changes_no_label():
    assert unify_labels(["x", "Y", "x"], CLASSLESS).tolist() == ["x", "Y", "x"]


@pytest.mark.parametrize(
    ("bank", "known"), [(BANK, None), (BANK, ["mel", "nv"]), (CLASSLESS, ["mel", "nv"])]
)
def test_a_label_of_no_class_is_an_error_that_names_label_and_classes(bank, known):
    places = Places("labels.csv", [2, 5, 6])
    message = error(unify_labels, ["mel", "wart", "wart"], bank, known=known, places=places)
    assert "'wart' (first in labels.csv line 5)" in message
    assert "1 label(s)" in message and "'wart'" in message and "--label-map" in message
    assert ("'mel', 'nv'" if known else "'m', 'n'") in message
