"""The command line, from the outside: what it prints, writes and returns."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

import skmoecbm
from skmoecbm import calibrate_sets, load, predict_set, save
from skmoecbm.cli import build_parser, main
from skmoecbm.datasets import make_lesions

N = 150


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """A folder of drawn lesions in two sub-folders, and a table of them."""
    folder = tmp_path_factory.mktemp("lesions")
    data = make_lesions(N, random_state=3)
    rows = []
    for number, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        path = folder / "photos" / ("left", "right")[number % 2] / f"image{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        split = "train" if number < 110 else "test"
        # Two spellings of a class, as tables have them.
        code = label.removesuffix("-like") if number % 3 else label
        rows.append([path.stem, code, number // 2, split])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "dx", "lesion", "split"], *rows])
    return folder


def table_options(folder):
    return [
        *("--images", str(folder / "photos"), "--labels", str(folder / "labels.csv")),
        *("--image-column", "image", "--label-column", "dx"),
    ]


def fit_options(folder, out):
    return [
        "fit",
        *table_options(folder),
        *("--experts", "demo-general", "demo-structures", "--concepts", "lesions"),
        *("--out", str(out)),
    ]


@pytest.fixture(scope="module")
def model(lesions):
    """A model folder fitted by the command line on the training rows."""
    options = [*fit_options(lesions, lesions / "model"), "--select-rows", "split=train"]
    assert main([*options, "--group-column", "lesion"]) == 0
    return lesions / "model"


def fails(capsys, arguments):
    """Run a command that must fail; return its one sentence."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith(f"skmoecbm {arguments[0]}: error: ")
    return lines[-1]


def test_a_model_folder_holds_no_pickle(model):
    names = {path.name for path in model.rglob("*") if path.is_file()}
    assert names and all(name.endswith((".json", ".safetensors", ".md")) for name in names)


def test_predict_writes_probabilities_and_gates_that_sum_to_one(model, lesions, capsys):
    out = lesions / "predictions.csv"
    assert main(["predict", str(model), str(lesions / "photos"), "--out", str(out)]) == 0
    assert "150 predictions" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N
    for row in rows[::10]:
        shares = {k: float(v) for k, v in row.items() if k.startswith("probability_")}
        gates = [float(v) for k, v in row.items() if k.startswith("gate_")]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert sum(gates) == pytest.approx(1, abs=1e-5) and len(gates) == 2
        assert row["prediction"] == max(shares, key=shares.get).removeprefix("probability_")


def test_predict_equals_the_loaded_model_in_python(model, lesions, capsys):
    paths = sorted((lesions / "photos" / "left").glob("*.png"))[:5]
    assert main(["predict", str(model), *map(str, paths)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    loaded = skmoecbm.load(model)
    expected = loaded.predict_proba(paths)
    names = [f"probability_{name}" for name in loaded.classes_]
    got = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [row["image"] for row in rows] == [str(path) for path in paths]


def test_spellings_of_a_class_become_one_class(model):
    loaded = skmoecbm.load(model)
    assert len(loaded.classes_) == 7
    assert len({name.removesuffix("-like") for name in loaded.classes_}) == 7


def test_evaluate_writes_metrics_with_group_intervals(model, lesions, capsys):
    out = lesions / "metrics.json"
    options = ["evaluate", str(model), *table_options(lesions), "--select-rows", "split=test"]
    options += ["--group-column", "lesion", "--n-bootstrap", "100", "--out", str(out)]
    assert main(options) == 0
    assert "balanced accuracy" in capsys.readouterr().out
    metrics = json.loads(out.read_text())
    assert (metrics["n"], metrics["n_groups"]) == (40, 20)
    score = metrics["metrics"]["balanced_accuracy"]
    assert score["low"] <= score["value"] <= score["high"]


def test_explain_shows_the_decision_with_a_concept_set(model, lesions, capsys):
    photo = str(sorted((lesions / "photos").rglob("*.png"))[0])
    command = ["explain", str(model), photo, "--out", str(lesions / "set.png")]
    changes = ["--set", "blue-white veil=present", "--set", "hair = p20", "--set", "globules=0.1"]
    assert main([*command, *changes]) == 0
    printed = capsys.readouterr().out
    loaded = skmoecbm.load(model)
    settings = {"blue-white veil": "present", "hair": "p20", "globules": 0.1}
    told = skmoecbm.intervene(loaded, [photo], settings)
    assert printed.startswith(repr(told)) and "blue-white veil (demo-structures) set to" in printed
    assert Image.open(lesions / "set.png").width > 400
    assert "CONCEPT=VALUE" in fails(capsys, [*command, "--set", "hair"])
    assert "no concept 'vail'" in fails(capsys, [*command, "--set", "vail=present"])


def test_explain_draws_one_picture_or_numbers_several(model, lesions, capsys):
    paths = [str(lesions / "photos" / "left" / f"image{number}.png") for number in (0, 2)]
    assert main(["explain", str(model), paths[0], "--out", str(lesions / "why.png")]) == 0
    assert main(["explain", str(model), *paths, "--out", str(lesions / "both.png")]) == 0
    for name in ("why.png", "both-1.png", "both-2.png"):
        assert Image.open(lesions / name).width > 400
    assert "both-2.png" in capsys.readouterr().out


def test_explain_draws_a_few_pictures_unless_it_is_told_to_draw_more(
    model, lesions, tmp_path, capsys
):
    photos = str(lesions / "photos" / "left")  # 75 of them
    out = ["--out", str(tmp_path / "e.png"), "--cache-dir", "none"]
    assert main(["explain", str(model), photos, *out, "--limit", "2"]) == 0
    captured = capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir()} == {"e-1.png", "e-2.png"}
    assert "the first 2 of 75 images are explained, 73 are left out; --limit 75" in captured.err
    assert captured.out.count("picture written to") == 2
    assert main(["explain", str(model), f"{photos}/image0.png", *out]) == 0
    assert "left out" not in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    for name in ("a.png", "e-1.png"):  # the second is left out, and not written over
        (tmp_path / "in" / name).write_bytes(b"")
    change = ["explain", model, tmp_path / "in", "--out", tmp_path / "in" / "a.png"]
    assert "would write over" in fails(capsys, [*change, "--limit", "1"])


def test_encode_writes_a_similarity_per_concept(lesions, capsys):
    photos = lesions / "photos" / "right"
    arguments = ["encode", str(photos), "--experts", "mine=demo-general", "--concepts", "lesions"]
    assert main(arguments) == 0
    header, *rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert len(rows) == N // 2
    assert all(name.startswith("mine__") for name in header[1:])
    values = np.array([row[1:] for row in rows], dtype=float)
    assert values.shape[1] > 5 and (np.abs(values) <= 1).all() and values.std() > 0.01


def test_an_unreadable_image_stops_or_is_missing(model, lesions, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    good = lesions / "photos" / "left" / "image0.png"
    message = fails(capsys, ["predict", model, good, tmp_path / "broken.jpg"])
    assert "broken.jpg" in message and "--on-error missing" in message
    arguments = ["predict", model, good, tmp_path / "broken.jpg", "--on-error", "missing"]
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert "note: " in captured.err
    rows = list(csv.DictReader(captured.out.splitlines()))
    assert rows[0]["prediction"] and float(rows[0]["gate_demo-general"]) > 0
    assert all(value == "" for name, value in rows[1].items() if name != "image")


def test_a_report_without_labels_treats_an_unreadable_image_as_predict_does(
    model, lesions, tmp_path, capsys
):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "few" / "good.png").write_bytes(
        (lesions / "photos" / "left" / "image0.png").read_bytes()
    )
    out = tmp_path / "r.html"
    options = ["report", model, "--images", tmp_path / "few", "--out", out]
    told = fails(capsys, options).partition("error: ")[2]
    assert told == fails(capsys, ["predict", model, tmp_path / "few"]).partition("error: ")[2]
    assert "broken.jpg" in told and "--on-error missing" in told and not out.exists()
    assert main([*map(str, options), "--on-error", "missing"]) == 0
    assert "1 image(s) cannot be read" in capsys.readouterr().err and out.exists()


@pytest.mark.parametrize(
    "option",
    [
        *("--image-column", "--label-column", "--group-column", "--label-map", "--select-rows"),
        *("--train-rows", "--train-labels", "--subgroups"),
    ],
)
def test_what_a_report_needs_a_table_for_is_refused_without_one(model, lesions, capsys, option):
    options = ["report", model, "--images", lesions / "photos", "--out", lesions / "r.html"]
    told = fails(capsys, [*options, option, "dx=mel"])
    assert f"{option} is about a table of labels. Give that with --labels" in told


def test_cache_shows_verifies_and_clears(lesions, tmp_path, capsys):
    folder = str(tmp_path / "cache")
    photo = str(lesions / "photos" / "left" / "image0.png")
    encode = ["encode", photo, "--experts", "demo-general", "--concepts", "lesions"]
    assert main([*encode, "--cache-dir", folder]) == 0
    capsys.readouterr()
    printed = []
    for action in ("info", "verify", "clear", "info"):
        assert main(["cache", action, "--cache-dir", folder]) == 0
        printed.append(capsys.readouterr().out)
    assert folder in printed[0] and "demo-general" in printed[0]
    assert "are intact" in printed[1] and "removed" not in printed[1]
    assert "files removed" in printed[2] and not printed[2].startswith("0 ")
    assert printed[3].strip().startswith(f"{folder}: 0 bytes of")
    assert "demo-general" not in printed[3]


def test_lint_tells_by_its_exit_code_what_it_found(capsys, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        '{"melanoma": ["irregular border", "flat or raised", "no hair"], "nevus": ["round"]}'
    )
    lint = ["concepts", "lint", str(path)]
    assert main(lint) == 1
    printed = capsys.readouterr().out
    assert "negation: 1" in printed and "'no' says that something is not there" in printed
    assert printed.endswith("mine: 4 concepts, 1 error, 1 warning\n")
    assert main([*lint, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {one["rule"] for one in findings} == {"negation", "vague"}
    assert main([*lint, "--rules", "vague", "leak"]) == 0
    assert main([*lint, "--rules", "vague", "--strict"]) == 1
    assert main([*lint, "--rules", "too-long", "--backbone", "demo-general"]) == 0
    assert "no rule 'leaks'" in fails(capsys, [*lint, "--rules", "leaks"])
    assert "nowhere" in fails(capsys, ["concepts", "lint", "nowhere"])


def test_concepts_are_listed_and_shown(capsys):
    assert main(["concepts", "list"]) == 0
    assert "lesions" in capsys.readouterr().out
    assert main(["concepts", "show", "lesions"]) == 0
    shown = capsys.readouterr().out
    bank = skmoecbm.load_concepts("lesions")
    assert all(text in shown for text in bank.texts)
    assert all(key in shown for key in bank.class_keys)


def test_a_model_of_one_expert_is_fitted_and_used(lesions, tmp_path, capsys):
    arguments = ["fit", *table_options(lesions), "--experts", "demo-general"]
    assert main([*arguments, "--concepts", "lesions", "--out", str(tmp_path / "one")]) == 0
    assert main(["predict", str(tmp_path / "one"), str(lesions / "photos" / "left")]) == 0
    rows = capsys.readouterr().out
    assert "gate_demo-general" in rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--concepts", "no-such-bank"], ["no-such-bank", "lesions"]),
        (["--experts", "demo-generl"], ["The model 'demo-generl' of --experts is unknown"]),
        (["--experts", "hf-hub:org/none"], ["'org/none'", "the Hugging Face cache does not hold"]),
        (["--experts", "demo-general", "demo-general"], ["demo-general"]),
        (["--label-column", "diagnosis"], ["no column 'diagnosis'", "'dx'", "--label-column"]),
        (["--image-column", "lesion"], ["150 of 150 images", "--image-column"]),
        (["--label-column", "split"], ["'test', 'train'", "--label-map"]),
        (["--images", "nowhere"], ["nowhere", "does not exist"]),
        (["--select-rows", "dx=mel", "--select-rows", "split=val"], ["split=val"]),
        (["--device", "cuda:77"], ["cuda:77"]),
        (["--device", "gpu"], ["gpu"]),
    ],
)
def test_a_mistake_in_fit_is_one_sentence(lesions, tmp_path, capsys, change, words):
    message = fails(capsys, [*fit_options(lesions, tmp_path / "model"), *change])
    assert all(word in message for word in words), message
    assert not (tmp_path / "model").exists()


def test_one_class_only_is_one_sentence(lesions, tmp_path, capsys):
    options = [*fit_options(lesions, tmp_path / "model"), "--label-map", tmp_path / "map.json"]
    table = (lesions / "labels.csv").read_text()
    labels = {row["dx"] for row in csv.DictReader(table.splitlines())}
    (tmp_path / "map.json").write_text(json.dumps(dict.fromkeys(labels, "mel")))
    message = fails(capsys, options)
    assert "All 150 images have the label 'mel'" in message and "--label-map" in message


def test_a_folder_that_is_no_model_is_one_sentence(lesions, tmp_path, capsys):
    photo = lesions / "photos" / "left" / "image0.png"
    assert str(tmp_path) in fails(capsys, ["predict", tmp_path, photo])
    assert "nowhere" in fails(capsys, ["predict", tmp_path / "nowhere", photo])


def test_wrong_outputs_are_refused_before_the_work(model, lesions, tmp_path, capsys, monkeypatch):
    photo = lesions / "photos" / "left" / "image0.png"
    assert "end in one of" in fails(capsys, ["explain", model, photo, "--out", "why.docx"])
    assert "is a folder" in fails(capsys, ["predict", model, photo, "--out", tmp_path])
    (tmp_path / "file").write_text("")
    message = fails(capsys, ["predict", model, photo, "--out", tmp_path / "file" / "p.csv"])
    assert "Nothing can be written" in message and "is a file" in message
    message = fails(capsys, ["predict", model, photo, "--out", tmp_path / ("x" * 300) / "p.csv"])
    assert "Nothing can be written" in message and "name too long" in message
    monkeypatch.setattr("skmoecbm._outputs.os.access", lambda place, mode: place != tmp_path)
    for name in ("p.csv", "new/p.csv"):
        message = fails(capsys, ["predict", model, photo, "--out", tmp_path / name])
        assert f"you may not write to '{tmp_path}'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_is_not_fitted_where_it_could_not_be_saved(lesions, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "thesis.docx").write_text("")
    start = time.process_time()
    assert "'thesis.docx'" in fails(capsys, fit_options(lesions, tmp_path))
    assert "is a file" in fails(capsys, fit_options(lesions, tmp_path / "thesis.docx" / "model"))
    assert time.process_time() - start < 1


def test_outputs_make_their_folders_when_there_is_something_to_write(model, lesions, tmp_path):
    photo = str(lesions / "photos" / "left" / "image0.png")
    for place in ("a/b/p.csv", "c/d/e.png"):
        command = "predict" if place.endswith("csv") else "explain"
        assert main([command, str(tmp_path / "no-model"), photo, "--out", str(tmp_path / place)])
        assert list(tmp_path.iterdir()) == []
    for place in ("a/b/p.csv", "c/d/e.png"):
        command = "predict" if place.endswith("csv") else "explain"
        assert main([command, str(model), photo, "--out", str(tmp_path / place)]) == 0
        assert (tmp_path / place).stat().st_size > 50


def test_mistakes_in_paths_and_columns_are_told_before_torch_is_imported(model, lesions, tmp_path):
    photo, table = str(lesions / "photos" / "left" / "image0.png"), table_options(lesions)
    out = ["--out", str(tmp_path / "x.png")]
    evaluate = ["evaluate", str(model), *table]
    commands = [
        *(
            [*command, *change]
            for command in (fit_options(lesions, tmp_path / "m"), evaluate)
            for change in (
                ["--label-column", "diagnosis"],
                ["--image-column", "lesion"],
                ["--labels", "nowhere.csv"],
                ["--images", "nowhere"],
                ["--label-map", "nowhere.json"],
            )
        ),
        [*fit_options(lesions, tmp_path / "m"), "--out", str(lesions / "photos")],
        ["evaluate", "nowhere", *table],
        ["predict", str(model), "nowhere.png"],
        ["predict", "nowhere", photo],
        ["predict", str(model), photo, "--out", str(tmp_path)],
        ["explain", str(model), "nowhere.png", *out],
        ["explain", "nowhere", photo, *out],
        ["encode", "nowhere.png", "--experts", "demo-general", "--concepts", "lesions"],
    ]
    code = (
        "import json, sys\nfrom skmoecbm.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert main(command) == 2, command\n"
        "    heavy = {'torch', 'open_clip', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, (heavy, command)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert len(child.stderr.splitlines()) == len(commands)


def test_the_notice_of_the_experts_is_told_once(model, lesions, tmp_path):
    photo = str(lesions / "photos" / "left" / "image0.png")
    for command, place in (("predict", "p.csv"), ("explain", "e.png")):
        arguments = [command, str(model), photo, "--out", str(tmp_path / place)]
        child = subprocess.run(
            [sys.executable, "-m", "skmoecbm.cli", *arguments], capture_output=True, text=True
        )
        assert child.returncode == 0, child.stderr
        assert (child.stdout + child.stderr).count("not for clinical use") == 1
    assert "row 0, image0.png: " in child.stdout


def test_an_unreadable_image_is_named_by_its_line_in_the_table(model, lesions, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    for number in (0, 1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text("image,dx\n0,mel\n\n1,nv\nbroken,nv\n2,mel\n")
    change = ["--images", tmp_path, "--labels", tmp_path / "t.csv"]
    message = fails(capsys, [*fit_options(lesions, tmp_path / "model"), *change])
    assert "error: t.csv line 5: image ('" in message and "--on-error missing" in message
    message = fails(capsys, ["evaluate", model, *table_options(lesions), *change])
    assert "error: t.csv line 5: image ('" in message


def test_the_models_own_label_map_is_used_at_evaluation(lesions, tmp_path, capsys):
    rows = (lesions / "labels.csv").read_text().splitlines()
    named = [",".join([name, f"code-{dx.removesuffix('-like')}", *rest]) for name, dx, *rest in
             (row.split(",") for row in rows[1:])]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join([rows[0], *named]))
    codes = {row.split(",")[1] for row in named}
    (tmp_path / "map.json").write_text(json.dumps({code: code[5:] for code in codes}))
    change = ["--labels", str(tmp_path / "t.csv")]
    out = tmp_path / "model"
    arguments = [*fit_options(lesions, out), *change, "--label-map", str(tmp_path / "map.json")]
    assert main(arguments) == 0
    evaluate = ["evaluate", str(out), *table_options(lesions), *change, "--n-bootstrap", "0"]
    assert main(evaluate) == 0


def test_an_unknown_label_at_evaluation_names_the_classes(model, lesions, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("image,dx\nimage0,wart\n")
    options = ["evaluate", model, *table_options(lesions), "--labels", tmp_path / "labels.csv"]
    message = fails(capsys, options)
    assert "'wart' (first in labels.csv line 2)" in message and "--label-map" in message


def test_probabilities_are_put_back_to_the_frequencies_of_training(lesions, tmp_path, capsys):
    options = [*fit_options(lesions, tmp_path / "model"), "--class-weight", "balanced"]
    assert main([*options, "--gate", "uniform"]) == 0
    command = ["predict", str(tmp_path / "model"), str(lesions / "photos")]
    found = []
    for more in ([], ["--target-prevalence", "train"]):
        capsys.readouterr()
        assert main([*command, *more]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        names = [name for name in rows[0] if name.startswith("probability_")]
        found.append(np.array([[float(row[name]) for name in names] for row in rows]))
    with (lesions / "labels.csv").open() as file:
        labels = [row["dx"] for row in csv.DictReader(file)]
    classes = skmoecbm.load(tmp_path / "model").classes_.tolist()
    assert [name.removeprefix("probability_") for name in names] == classes
    known = skmoecbm.load_concepts("lesions").match_labels(sorted(set(labels)))
    spelling = {known[label]: label for label in classes}
    codes = [classes.index(spelling[known[label]]) for label in labels]
    # Bayes: trained at equal frequencies, asked for those of the table.
    expected = found[0] * np.bincount(codes, minlength=len(classes))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[1], expected, atol=1e-4)
    assert np.abs(found[1] - found[0]).max() > 1e-3


def test_the_four_commands_run_on_real_photographs(data_dir, tmp_path, capsys):
    """The README's recipe on 210 JPEGs of HAM10000, labels as its table has them."""
    folder = data_dir / "ham10000_fullsize"
    table = ["--images", str(folder / "images"), "--labels", str(folder / "metadata.csv")]
    table += ["--image-column", "image_id", "--label-column", "dx", "--group-column", "lesion_id"]
    experts = ["--experts", "demo-general", "demo-structures", "--concepts", "lesions"]
    model = str(tmp_path / "model")
    assert main(["fit", *table, *experts, "--class-weight", "balanced", "--out", model]) == 0
    picture = str(next((folder / "images").glob("*.jpg")))
    assert main(["explain", model, picture, "--out", str(tmp_path / "explained.png")]) == 0
    out = str(tmp_path / "predictions.csv")
    assert main(["predict", model, str(folder / "images"), "--out", out]) == 0
    metrics = tmp_path / "metrics.json"
    assert main(["evaluate", model, *table, "--n-bootstrap", "50", "--out", str(metrics)]) == 0
    with open(out) as file:
        predicted = {row["image"]: row["prediction"] for row in csv.DictReader(file)}
    assert len(predicted) == 210
    codes = {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}
    assert set(predicted.values()) <= codes
    result = json.loads(metrics.read_text())
    assert set(result["classes"]) == codes
    with (folder / "metadata.csv").open() as file:
        truth = {row["image_id"]: row["dx"] for row in csv.DictReader(file)}
    hits = {code: [] for code in codes}
    for image, prediction in predicted.items():
        code = truth[image.rpartition("/")[2].removesuffix(".jpg")]
        hits[code].append(prediction == code)
    balanced = np.mean([np.mean(found) for found in hits.values()])
    assert result["metrics"]["balanced_accuracy"]["value"] == pytest.approx(balanced)
    # Fitted and evaluated on the same images: only that something was learned is asked.
    assert balanced > 2 / 7


def test_debug_shows_where_the_error_came_from(tmp_path):
    with pytest.raises(skmoecbm.SkmoecbmError):
        main(["predict", str(tmp_path), str(tmp_path / "x.png"), "--debug"])
    with pytest.raises(skmoecbm.SkmoecbmError):
        main(["--debug", "predict", str(tmp_path), str(tmp_path / "x.png")])


def test_interruption_is_no_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("skmoecbm._commands.concepts", interrupted)
    assert main(["concepts", "list"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"skmoecbm {skmoecbm.__version__}\n"


def test_every_option_has_help():
    commands = next(a for a in build_parser()._actions if a.choices).choices
    silent = [
        f"{name} {action.dest}"
        for name, command in commands.items()
        for action in command._actions
        if not action.help and action.dest != "action"
    ]
    assert silent == []


def test_help_imports_no_heavy_library():
    code = (
        "import sys, skmoecbm.cli\n"
        "try:\n    skmoecbm.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'sklearn', 'open_clip', 'pandas', 'matplotlib', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "demo" in child.stdout


def test_output_into_a_closed_pipe_is_quiet():
    code = (
        "import sys; from skmoecbm.cli import main; sys.exit(main(['concepts', 'show', 'lesions']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    assert child.stderr.read() == ""
    child.wait(60)


def test_the_demo_compares_draws_and_saves(tmp_path, capsys):
    out = tmp_path / "demo"
    start = time.process_time()
    assert main(["demo", "--out", str(out), "--n-train", "300", "--n-test", "200"]) == 0
    assert time.process_time() - start < 120
    captured = capsys.readouterr()
    for arm in ("demo-general alone", "demo-structures alone", "plain average", "gated mixture"):
        assert arm in captured.out
    assert "macro-AUROC" in captured.out and "[" in captured.out
    assert "trained on drawings, not for clinical use" in captured.out + captured.err
    for number in (1, 2, 3, 4):
        assert Image.open(out / f"explained-{number}.png").width > 400
        assert f"explained-{number}.png" in captured.out
    assert main(["predict", str(out / "model"), str(out / "images")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--n-train", "3"], "--n-train: must be an integer of at least 50, got '3'"),
        (["demo", "--seed", "-1"], "--seed: must be an integer of at least 0, got '-1'"),
        (["demo", "--n-test", "many"], "--n-test: must be an integer of at least 50, got 'many'"),
        (["explain", "m", "i", "--out", "x.png", "--top", "0"], "--top: must be an integer of"),
        (["app", "m", "--port", "99999"], "--port: must be an integer from 1 to 65535, got"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_predict_writes_all_labels_that_a_model_of_many_says(lesions, tmp_path, capsys):
    paths = sorted((lesions / "photos").rglob("*.png"))[:60]
    rng = np.random.default_rng(0)
    labels = pd.DataFrame(rng.random((60, 3)) < 0.5, columns=["A", "B", "C"]).astype(int)
    encoder = skmoecbm.ConceptEncoder("demo-general", "lesions")
    head = skmoecbm.ConceptBottleneckClassifier(alpha=0.1, prior=None)
    model = make_pipeline(encoder, head).fit(paths, labels)
    skmoecbm.save(model, tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), *map(str, paths)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    expected = ["|".join(np.array(["A", "B", "C"])[row == 1]) for row in model.predict(paths)]
    assert [row["prediction"] for row in rows] == expected
    assert {len(told.split("|")) for told in expected if told} > {1}


def test_predict_writes_the_set_of_a_model_that_was_calibrated(model, lesions, tmp_path, capsys):
    photo = lesions / "photos" / "left" / "image0.png"
    message = fails(capsys, ["predict", model, photo, "--coverage", "0.9"])
    assert "has no calibration for sets of classes" in message and "calibrate_sets" in message
    data, loaded = make_lesions(60, random_state=8), load(model)
    classes = {str(name).removesuffix("-like"): name for name in loaded.classes_}
    labels = [classes[label.removesuffix("-like")] for label in data.target]
    calibrated = calibrate_sets(loaded, data.images, labels)
    save(calibrated, tmp_path / "model")
    paths = sorted((lesions / "photos" / "left").iterdir())[:12]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    words = ["predict", str(tmp_path / "model"), *map(str, [*paths, broken])]
    assert main([*words, "--on-error", "missing", "--coverage", "0.8"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(captured.out.splitlines()))
    sets = predict_set(calibrated, paths, coverage=0.8)
    expected = ["|".join(calibrated.classes_[row]) for row in sets]
    assert [row["set"] for row in rows] == [*expected, ""]
    assert len({*expected}) > 2 and rows[0]["prediction"]
    assert "no expert" not in captured.err
    for text in ("1.5", "0", "most", "nan"):
        with pytest.raises(SystemExit):
            main([*words, "--coverage", text])
        assert "must be between 0 and 1, such as 0.9, got" in capsys.readouterr().err
