"""MedMNIST from files as they are published, and RetinaMNIST itself."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import cohen_kappa_score, get_scorer, roc_auc_score

from skmoecbm import evaluate, load_concepts
from skmoecbm.datasets import _http, _medmnist, _npz, fetch_medmnist
from skmoecbm.exceptions import DownloadError, InputError, SkmoecbmWarning
from tests.datasets import trees
from tests.datasets.file_server import served

NAMES = list(_medmnist.medmnist_sets())


@pytest.fixture
def small(monkeypatch):
    """The sets, with as many images as the files of these tests have."""
    known = _medmnist.medmnist_sets()
    for about in known.values():
        about["n_rows"] = {"train": 12, "val": 4, "test": 8}
    monkeypatch.setattr(_medmnist, "medmnist_sets", lambda: known)
    return known


def labels_of(about):
    if about["task"] == "multi-label":
        return lambda rng, n: rng.integers(0, 2, (n, len(about["classes"])))
    return lambda rng, n: rng.integers(0, len(about["classes"]), (n, 1))


def test_the_sets_are_the_twelve_of_images():
    known = _medmnist.medmnist_sets()
    assert len(known) == 12
    for about in known.values():
        assert set(about["md5"]) == {str(size) for size in _medmnist.SIZES}
        assert all(len(md5) == 32 and int(md5, 16) for md5 in about["md5"].values())
        assert len(set(about["classes"])) == len(about["classes"]) > 1
        assert about["licence"].startswith("CC BY") and about["source"]
    md5s = [md5 for about in known.values() for md5 in about["md5"].values()]
    assert len(set(md5s)) == 48


@pytest.mark.parametrize(
    ("name", "bank"),
    [
        ("pathmnist", "pathmnist"),
        ("retinamnist", "retinamnist"),
        ("dermamnist", "ham10000"),
        ("chestmnist", "chestxray14"),
    ],
)
def test_classes_have_the_names_of_the_concept_banks(name, bank):
    names = [one.name for one in load_concepts(bank).classes]
    assert _medmnist.medmnist_sets()[name]["classes"] == names


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_are_those_of_the_file(tmp_path, small, name):
    about = small[name]
    shape = (28, 28, 3) if name in ("pathmnist", "retinamnist") else (28, 28)
    arrays = trees.medmnist(tmp_path / f"{name}.npz", shape=shape, labels=labels_of(about))
    data = fetch_medmnist(name.upper(), root=tmp_path)
    parts = ("train", "val", "test")
    images = np.concatenate([arrays[f"{part}_images"] for part in parts])
    labels = np.concatenate([arrays[f"{part}_labels"] for part in parts])
    assert data.images.shape == (24, 28, 28, 3 if len(shape) == 3 else 1)
    np.testing.assert_array_equal(data.images.reshape(images.shape), images)
    if about["task"] == "multi-label":
        np.testing.assert_array_equal(data.target, labels)
        assert list(data.target.columns) == about["classes"]
    else:
        assert data.target.tolist() == [about["classes"][k] for k in labels[:, 0]]
        assert data.metadata["label"].tolist() == labels[:, 0].tolist()
    rows = data.splits.rows("official")
    assert [len(rows[part]) for part in parts] == [12, 4, 8]
    assert about["source"] in data.DESCR and about["licence"] in data.DESCR
    assert data.groups is None and data.task == about["task"]


def test_the_split_of_dermamnist_warns(tmp_path, small):
    trees.medmnist(tmp_path / "dermamnist.npz", labels=labels_of(small["dermamnist"]))
    data = fetch_medmnist("dermamnist", root=tmp_path)
    with pytest.warns(SkmoecbmWarning, match="divides the images of HAM10000, not its lesions"):
        data.part("test")


def test_large_files_stay_on_the_disk(tmp_path, small, monkeypatch):
    labels = labels_of(small["bloodmnist"])
    path = tmp_path / "bloodmnist_64.npz"
    trees.medmnist(path, shape=(64, 64, 3), labels=labels)
    held = fetch_medmnist("bloodmnist", 64, root=tmp_path).images
    monkeypatch.setattr(_npz, "_MEMORY", 1000)
    monkeypatch.setattr(_npz, "_ROWS", 5)
    data = fetch_medmnist("bloodmnist", 64, root=path, data_home=tmp_path / "home")
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, held)
    part = data.part("val").images
    assert isinstance(part, np.memmap) and np.shares_memory(part, data.images)
    files = list((tmp_path / "home").rglob("*.npy"))
    fetch_medmnist("bloodmnist", 64, root=path, data_home=tmp_path / "home")
    assert list((tmp_path / "home").rglob("*.npy")) == files and len(files) == 1
    os.utime(path, (0, 0))  # it may have other content in the same number of bytes
    fetch_medmnist("bloodmnist", 64, root=path, data_home=tmp_path / "home")
    assert len(list((tmp_path / "home").rglob("*.npy"))) == 2
    trees.medmnist(path, shape=(64, 64, 3), labels=labels, seed=1)  # another file of that name
    again = fetch_medmnist("bloodmnist", 64, root=path, data_home=tmp_path / "home")
    assert (again.images != held).any()
    grey = tmp_path / "octmnist.npz"
    arrays = trees.medmnist(grey, labels=labels_of(small["octmnist"]))
    images = fetch_medmnist("octmnist", root=grey, data_home=tmp_path / "home").images
    assert isinstance(images, np.memmap) and images.shape == (24, 28, 28, 1)
    np.testing.assert_array_equal(images[:12, ..., 0], arrays["train_images"])


def test_a_file_is_downloaded_with_its_checksum(tmp_path, small, monkeypatch):
    from hashlib import md5

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    trees.medmnist(tmp_path / "a.npz", shape=(64, 64), labels=labels_of(small["octmnist"]))
    content = (tmp_path / "a.npz").read_bytes()
    small["octmnist"]["md5"]["64"] = md5(content).hexdigest()
    home = tmp_path / "home"
    with served({"/octmnist_64.npz": content}) as server:
        monkeypatch.setattr(_medmnist, "BASE_URL", server.address + "/")
        with pytest.raises(DownloadError, match=r"'octmnist_64.npz' of MedMNIST is not in .* By"):
            fetch_medmnist("octmnist", 64, data_home=home, download_if_missing=False)
        server.faults["/octmnist_64.npz"] = [{"status": 503}, {"cut": 100}]
        data = fetch_medmnist("octmnist", 64, data_home=home, verbose=False)
        assert data.images.shape == (24, 64, 64, 1)
        fetch_medmnist("octmnist", 64, data_home=home, download_if_missing=False)
        assert len(server.requests) == 3
        server.files["/octmnist_64.npz"] = content[:-1] + b"x"
        (home / "medmnist" / "octmnist_64.npz").unlink()
        with pytest.raises(DownloadError, match=r"md5 checksum is \w+, and .*give it as `root`"):
            fetch_medmnist("octmnist", 64, data_home=home, verbose=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "mnist"}, "'name' parameter of fetch_medmnist must be one of 'pathmnist'"),
        ({"name": 3}, "'name' parameter"),
        ({"name": "OrganMNIST3D"}, r"volumes, which image encoders cannot read\. The sets of im"),
        ({"name": "medmnist/"}, r"such as 'retinamnist'; give the folder or file with root=\. Got"),
        ({"name": "octmnist.npz"}, "give the folder or file with root="),
        ({"name": Path("octmnist")}, "give the folder or file with root="),
        ({"name": "octmnist", "size": "med/"}, r"224\); give the folder or file with root=\. Got"),
        ({"name": "octmnist", "size": Path("med")}, "give the folder or file with root="),
        ({"name": "octmnist", "size": "28"}, r"must be one of \(28, 64, 128, 224\)\. Got '28'"),
        ({"name": "octmnist", "size": 32}, "'size' parameter of fetch_medmnist must be one of"),
        ({"name": "octmnist", "size": 64}, "no file .*octmnist_64.npz'"),
        ({"name": "pathmnist"}, r"not the file of pathmnist: it has 3 train, 1 val, 1 test"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_sentence(tmp_path, options, said):
    trees.medmnist(tmp_path / "pathmnist.npz", sizes=(3, 1, 1))
    with pytest.raises(InputError, match=said):
        fetch_medmnist(**options, root=tmp_path)


def test_files_that_are_no_medmnist_are_refused(tmp_path, small, monkeypatch):
    path = tmp_path / "breastmnist.npz"
    path.write_bytes(b"PK no archive")
    with pytest.raises(InputError, match=r"cannot be read as an .npz file"):
        fetch_medmnist("breastmnist", root=path)
    trees.medmnist(path)
    damaged = bytearray(path.read_bytes())
    damaged[300:340] = bytes(40)  # within the images
    path.write_bytes(damaged)
    for memory in (1000, 2**30):
        monkeypatch.setattr(_npz, "_MEMORY", memory)
        with pytest.raises(
            InputError, match=r"cannot be read as an .npz file: .* Download it anew"
        ):
            fetch_medmnist("breastmnist", root=path, data_home=tmp_path / "home")
    np.savez(path, train_images=np.zeros((1, 28, 28)))
    with pytest.raises(InputError, match="it has no array 'train_labels'"):
        fetch_medmnist("breastmnist", root=path)
    trees.medmnist(path, labels=lambda rng, n: rng.integers(0, 3, (n, 1)))
    with pytest.raises(InputError, match="not those of the 2 classes"):
        fetch_medmnist("breastmnist", root=path)
    trees.medmnist(path, shape=(64, 64))
    with pytest.raises(InputError, match="24 images of 64 x 64 pixels and 24 labels; 28 x 28 was"):
        fetch_medmnist("breastmnist", root=path)


def test_the_measures_are_those_of_scikit_learn(tmp_path, small):
    """`metric` is a key of `evaluate`, `scoring` the same for scikit-learn."""
    for name in ("octmnist", "breastmnist"):
        trees.medmnist(tmp_path / f"{name}.npz", (12, 4, 80), labels=labels_of(small[name]))
        small[name]["n_rows"]["test"] = 80
        data = fetch_medmnist(name, root=tmp_path)
        test = data.part("test")
        X = test.images.reshape(len(test.images), -1)
        model = Noisy().fit(X, test.target)
        value = evaluate(model, X, test.target, n_bootstrap=0)[data.metric].value
        assert get_scorer(data.scoring)(model, X, test.target) == pytest.approx(value)
        assert 0.5 < value < 1


class Noisy(DummyClassifier):
    """A classifier that is right more often than not."""

    def predict_proba(self, X):
        rng = np.random.default_rng(0)
        chosen = rng.random((len(X), len(self.classes_)))
        chosen[np.arange(len(X)), np.searchsorted(self.classes_, self.y_)] += 0.3
        return chosen / chosen.sum(axis=1, keepdims=True)

    def fit(self, X, y):
        self.y_ = np.asarray(y)
        return super().fit(X, y)


def test_retinamnist_itself(data_dir, tmp_path):
    import hashlib

    path = data_dir / "medmnist" / "retinamnist.npz"
    known = _medmnist.medmnist_sets()["retinamnist"]
    assert hashlib.md5(path.read_bytes()).hexdigest() == known["md5"]["28"]
    data = fetch_medmnist("retinamnist", root=path.parent)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(data.part("val").images, arrays["val_images"])
        grades = arrays["test_labels"][:, 0]
    test = data.part("test")
    model = Noisy().fit(test.images.reshape(400, -1), test.target)
    measured = evaluate(model, test.images.reshape(400, -1), test.target, n_bootstrap=0)
    assert 0.5 < measured[data.metric].value < 1
    assert test.metadata["label"].tolist() == grades.tolist()
    assert (data.task, data.metric) == ("ordinal", "macro_auroc")
    # the kappa sees the order of grades, whatever the alphabet makes of their names
    guessed = np.clip(grades.astype(int) + np.random.default_rng(0).integers(-1, 2, 400), 0, 4)

    class Guess(DummyClassifier):
        def predict(self, X):
            return np.array(data.target_names)[guessed]

    model = Guess().fit(grades[:, None], test.target)
    value = get_scorer(data.scoring)(model, grades[:, None], test.target)
    assert value == pytest.approx(cohen_kappa_score(grades, guessed, weights="quadratic"))
    codes = {name: k for k, name in enumerate(sorted(data.target_names))}
    other = [[codes[data.target_names[k]] for k in one] for one in (grades, guessed)]
    assert value != pytest.approx(cohen_kappa_score(*other, weights="quadratic"))


def test_labels_of_an_indicator_are_scored_as_a_frame(tmp_path, small):
    small["chestmnist"]["n_rows"]["test"] = 80
    trees.medmnist(tmp_path / "chestmnist.npz", (12, 4, 80), labels=labels_of(small["chestmnist"]))
    test = fetch_medmnist("chestmnist", root=tmp_path).part("test")
    scores = np.random.default_rng(0).random(test.target.shape) + 0.3 * test.target.to_numpy()

    class Fixed(DummyClassifier):
        def predict_proba(self, X):
            return scores

    model = Fixed().fit(np.zeros((80, 1)), test.target)
    value = get_scorer(test.scoring)(model, np.zeros((80, 1)), test.target)
    assert value == pytest.approx(roc_auc_score(test.target, scores, average="macro"))
