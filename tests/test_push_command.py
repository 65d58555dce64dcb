"""`skmoecbm push`, and the commands that take a model on the Hub, against a double of it."""

import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

import skmoecbm._hub_errors as hub_errors
from skmoecbm import ConceptBottleneckClassifier, ConceptEncoder, save
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions
from tests.hub_server import served, use_hub
from tests.hub_store import files_of

NAME, TOKEN = "ana/skin", "hf_ana_may_write"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder, and a folder with an image."""
    data = make_lesions(40, random_state=0)
    encoder = ConceptEncoder("demo-general", "lesions", cache_dir=None)
    model = make_pipeline(encoder, ConceptBottleneckClassifier(alpha=1.0))
    folder = tmp_path_factory.mktemp("push")
    save(model.fit(list(data.images), data.target), folder / "model")
    (folder / "photos").mkdir()
    Image.fromarray(data.images[0]).save(folder / "photos" / "a.png")
    return folder / "model", folder / "photos"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with served() as double:
        double.tokens[TOKEN] = "ana"
        use_hub(monkeypatch, double, tmp_path / "cache", TOKEN)
        monkeypatch.setattr(hub_errors.time, "sleep", lambda seconds: None)
        yield double


def fails(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


def test_a_folder_is_pushed_as_it_is_and_used_from_the_hub(hub, saved, capsys, tmp_path):
    folder, photos = saved
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nWritten by hand.\n")
    (folder / "notes.txt").write_text("not of the model")
    assert main(["push", str(folder), NAME, "--tag", "v1"]) == 0
    repository = hub.repositories[NAME]
    told = capsys.readouterr().out
    assert f"{hub.address}/{NAME}/commit/{repository.heads['main']} (private)\n" in told
    assert "skmoecbm.from_pretrained('ana/skin', revision='v1')" in told
    files = files_of(folder)
    assert repository["main"].pop(".gitattributes")
    assert files.pop("notes.txt")
    line = b'model = skmoecbm.load("path/to/this/folder")'
    assert files["README.md"].count(line) == 1  # of this a visitor has none
    there = b'model = skmoecbm.from_pretrained("ana/skin", revision="v1")'
    files["README.md"] = files["README.md"].replace(line, there)
    assert repository["main"] == files and repository.private
    options = ["--cache-dir", "none"]
    assert main(["predict", str(folder), str(photos), *options]) == 0
    here = capsys.readouterr().out
    repository.commit("main", {"README.md": b"broken"})
    assert main(["predict", NAME, str(photos), "--revision", "v1", *options]) == 0
    assert capsys.readouterr().out == here
    out = str(tmp_path / "explained.png")
    assert main(["explain", NAME, str(photos), "--revision", "v1", "--out", out, *options]) == 0
    assert (tmp_path / "explained.png").stat().st_size > 1000
    assert "is not a model saved by skmoecbm" in fails(capsys, "predict", NAME, photos)


def test_everyone_sees_it_only_where_that_was_said(hub, saved, capsys):
    assert main(["push", str(saved[0]), NAME, "--public", "--branch", "next"]) == 0
    assert not hub.repositories[NAME].private
    assert set(hub.repositories[NAME].heads) == {"main", "next"}
    assert " (public)\n" in capsys.readouterr().out
    assert "is public, and private=True" in fails(capsys, "push", saved[0], NAME, "--private")


def test_images_that_become_public_are_told(hub, saved, capsys, tmp_path):
    for name, content in files_of(saved[0]).items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (4, 4)).save(tmp_path / "image-01.jpg")
    assert main(["push", str(tmp_path), NAME, "--public"]) == 0
    assert "so image-01.jpg of the card become public" in capsys.readouterr().err
    assert "image-01.jpg" in hub.repositories[NAME]["main"]


def test_mistakes_are_one_sentence(hub, saved, capsys, tmp_path):
    folder, photos = saved
    assert "There is no folder" in fails(capsys, "push", tmp_path / "none", NAME)
    assert "'user/repo'. Got 'skin' instead" in fails(capsys, "push", folder, "skin")
    assert "nothing to tag yet" in fails(capsys, "push", folder, NAME, "--create-pr", "--tag", "v1")
    assert "--revision is for a model on the Hub" in fails(
        capsys, "predict", folder, photos, "--revision", "v1"
    )
    for path in (tmp_path / "a" / "b", "../no-model", "./no-model"):
        assert "There is no folder" in fails(capsys, "predict", path, photos)
    assert hub.requests == []
    told = fails(capsys, "predict", "ana/nothing", photos)
    assert "error: Could not get the model 'ana/nothing'" in told
    assert told.endswith("There is no folder 'ana/nothing' here either.")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, content in files_of(folder).items():
        (broken / name).write_bytes(content if name != "model.safetensors" else b"")
    assert "damaged or replaced" in fails(capsys, "push", broken, NAME)
    assert not hub.repositories


def test_a_token_is_no_option(saved, capsys):
    with pytest.raises(SystemExit):
        main(["push", str(saved[0]), NAME, "--token", TOKEN])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_what_needs_no_hub_is_told_before_it_is_asked(hub, saved, capsys, monkeypatch, tmp_path):
    folder, photos = saved
    told = fails(capsys, "predict", NAME, tmp_path / "none.png")
    assert "none.png' does not exist" in told
    labels = ["--image-column", "a", "--label-column", "b", "--labels", tmp_path / "none.csv"]
    assert "none.csv' does not exist" in fails(
        capsys, "evaluate", NAME, "--images", photos, *labels
    )
    assert "The image folder" in fails(capsys, "evaluate", NAME, "--images", "nowhere", *labels)
    told = fails(capsys, "push", folder, f"https://huggingface.co/{NAME}")
    assert told.endswith(f"instead; give '{NAME}'.")
    monkeypatch.setattr("skmoecbm._model_reading.read_model", lambda folder: pytest.fail("read"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = fails(capsys, "push", folder, NAME)
    assert f"Could not push to '{NAME}': HF_HUB_OFFLINE is set. Unset it" in told
    assert hub.requests == []
