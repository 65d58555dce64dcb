"""Shards of embeddings: the same rows as in one process, whatever stopped the run in between."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline

import skmoecbm
from skmoecbm import (
    BackboneError,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
)
from skmoecbm.backbones import clear_backbones, load_backbone
from skmoecbm.datasets import make_lesions
from skmoecbm.distributed import encode, open_embeddings
from skmoecbm.images import image_key

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'skmoecbm[ray]'")

# one of the images is damaged, which every run tells
pytestmark = pytest.mark.filterwarnings("ignore:1 of .* cannot be read")

N = 40
BAD = 7


def lesion_encoder(backbone="demo-general", **options):
    return ConceptEncoder(backbone, "lesions", cache_dir=None, on_error="missing", **options)


@pytest.fixture(scope="module")
def lesions():
    return make_lesions(N, random_state=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lesions):
    """Images in two sub-folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(lesions.images):
        path = folder / ("a" if i < N // 2 else "b") / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
        if i == BAD:
            path.write_bytes(path.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(str(path) for path in folder.rglob("*.png"))


@pytest.fixture(scope="module")
def in_process(paths):
    """The embeddings that the encoder makes of the same files."""
    with pytest.warns(UserWarning, match="cannot be read"):
        return lesion_encoder().embed_images(paths)[0]


@pytest.fixture(scope="module")
def encoded(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoded") / "out"
    encode(folder, lesion_encoder(), out, engine="local", shard_size=16)
    return out


def rows_of(X):
    return X.rows_of(load_backbone("demo-general"))


def test_shards_hold_the_rows_of_the_encoder(encoded, in_process, paths, folder):
    X = open_embeddings(encoded)
    rows, present = rows_of(X)
    assert isinstance(rows, np.memmap) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, in_process, atol=1e-6)
    assert np.flatnonzero(~present).tolist() == [BAD]
    assert np.isnan(rows[BAD]).all()
    assert [str(folder / key) for key in X.keys] == paths
    assert X.failed.to_dict("list")["row"] == [BAD]
    assert "damaged" in X.failed["reason"][0] and X.failed["key"][0] == f"a/{BAD:03d}.png"


def test_what_anyone_can_read_in_a_shard(encoded, in_process, paths):
    """With pandas alone: keys, the store's key of the content, embeddings, provenance."""
    import pyarrow.parquet as parquet

    files = sorted((encoded / "shards").glob("*.parquet"))
    assert [parquet.read_metadata(file).num_rows for file in files] == [16, 16, 8]
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    assert table["content"].tolist() == [image_key(path) for path in paths]
    kept = table["embedding"].notna().to_numpy()
    assert np.flatnonzero(~kept).tolist() == [BAD]
    np.testing.assert_allclose(np.stack(table["embedding"][kept]), in_process[kept], atol=1e-6)
    about = json.loads(parquet.read_metadata(files[1]).metadata[b"skmoecbm"])
    encoder = lesion_encoder().fit(paths[:1])
    assert about["backbone"]["identity"] == encoder.backbone_identity_
    assert about["backbone"]["fingerprint"] == encoder.fingerprint_
    assert about["backbone"]["asked"]["resize"] == "crop"
    assert about["first_row"] == 16
    failed = pd.read_csv(encoded / "failed.csv")
    assert failed["key"].tolist() == [f"a/{BAD:03d}.png"]


def test_a_model_fitted_on_shards_is_the_model_fitted_on_the_images(
    encoded, folder, tmp_path, paths, lesions
):
    other = tmp_path / "structures"
    encode(folder, lesion_encoder("demo-structures"), other, engine="local", shard_size=9)

    def fitted(X):
        union = ExpertUnion([("g", lesion_encoder()), ("s", lesion_encoder("demo-structures"))])
        model = make_pipeline(union, GatedConceptBottleneckClassifier(random_state=0))
        return model.fit(X, y)

    keep = np.arange(N) != BAD
    y = lesions.target[keep]
    X = open_embeddings(encoded, other)
    assert X.shape == (N,) and len(X.backbones) == 2
    from_shards = fitted(X[keep])
    from_images = fitted([path for path, kept in zip(paths, keep, strict=True) if kept])
    expected = from_images.predict_proba(paths[:5])
    np.testing.assert_allclose(from_shards.predict_proba(X[:5]), expected, atol=1e-5)
    # and one that was fitted on shards takes images
    np.testing.assert_allclose(from_shards.predict_proba(paths[:5]), expected, atol=1e-5)


def test_search_and_folds_take_rows_of_embeddings_as_those_of_images(encoded, paths, lesions):
    X = open_embeddings(encoded)
    X, y = X[X.present], np.delete(lesions.target, BAD)
    images = np.delete(np.array(paths), BAD)
    model = make_pipeline(lesion_encoder(), GatedConceptBottleneckClassifier(random_state=0))
    grid = {"conceptencoder__templates": [None, ["a photo of {}"]]}
    searches = [GridSearchCV(model, grid, cv=KFold(2)).fit(rows, y) for rows in (X, images)]
    scores = [search.cv_results_["split1_test_score"] for search in searches]
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(*scores)
    folds = [cross_val_predict(model, rows, y, cv=KFold(3)) for rows in (X, images)]
    np.testing.assert_array_equal(*folds)


def test_rows_are_chosen_as_of_an_array(encoded, in_process):
    X = open_embeddings(encoded)
    numbers = np.arange(N)
    mask = numbers % 3 == 0
    for key in (slice(3, 9), slice(None, None, 4), slice(30, 5), [4, -1, 4], mask, []):
        picked = X[key]
        want = numbers[np.array(key, dtype=int) if isinstance(key, list) else key]
        np.testing.assert_allclose(rows_of(picked)[0], in_process[want], atol=1e-6)
        assert picked.keys.tolist() == X.keys[want].tolist()
        assert picked.failed["row"].tolist() == np.flatnonzero(want == BAD).tolist()
    twice = X[5:][mask[5:]][1:3]
    assert twice.keys.tolist() == X.keys[[9, 12]].tolist()
    assert isinstance(rows_of(X[3:9])[0], np.memmap), "a run of rows stays mapped"
    assert X[2] == X.keys[2] and list(X[:2]) == X.keys[:2].tolist()
    with pytest.raises(InputError, match="row numbers, or a mask"):
        X["a"]


def test_a_pickle_holds_no_embeddings(encoded):
    import pickle

    X = open_embeddings(encoded)[np.array([1, 5])]
    rows_of(X)
    content = pickle.dumps(X)
    assert len(content) < 1000
    np.testing.assert_array_equal(rows_of(pickle.loads(content))[0], rows_of(X)[0])


def test_a_run_goes_on_where_it_stopped(folder, tmp_path, in_process, monkeypatch):
    from skmoecbm import _shard_worker

    out, calls = tmp_path / "out", []
    write = _shard_worker.write_shard

    def failing(out, plan, shard, *rest):
        calls.append(shard)
        if len(calls) == 2:
            raise OSError("no space left on the disk")
        write(out, plan, shard, *rest)

    monkeypatch.setattr(_shard_worker, "write_shard", failing)
    with pytest.raises(OSError, match="no space"):
        encode(folder, lesion_encoder(), out, engine="local", shard_size=16)
    with pytest.raises(InputError, match=r"2 of the 3 shards .* goes on where it stopped"):
        open_embeddings(out)
    first = (out / "shards" / "shard-000000.parquet").stat().st_mtime_ns
    X = encode(folder, lesion_encoder(), out, engine="local")  # the plan knows the size
    assert calls == [0, 1, 1, 2]
    assert (out / "shards" / "shard-000000.parquet").stat().st_mtime_ns == first
    np.testing.assert_allclose(rows_of(X)[0], in_process, atol=1e-6)
    assert not [*out.rglob("*.tmp")]


def test_what_a_killed_writer_left_is_removed_once_it_is_old(encoded, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(encoded, out)
    old, young = (out / "shards" / f"shard-000001.parquet.{name}.tmp" for name in ("0a", "0b"))
    for path in (old, young):
        path.write_bytes(b"half a shard")
    os.utime(old, (1e9, 1e9))
    encode(folder, lesion_encoder(), out, engine="local")
    assert not old.exists() and young.exists(), "the young one may have a living writer"


def test_a_damaged_or_foreign_shard_is_written_again(encoded, folder, tmp_path, in_process):
    out = tmp_path / "out"
    shutil.copytree(encoded, out)
    shards = sorted((out / "shards").iterdir())
    shards[0].write_bytes(shards[0].read_bytes()[:-20])
    shutil.copy(shards[1], shards[2])  # the rows of another shard under its name
    (out / "embeddings.npy").unlink(missing_ok=True)
    with pytest.raises(InputError, match="2 of the 3 shards"):
        open_embeddings(out)
    X = encode(folder, lesion_encoder(), out, engine="local")
    np.testing.assert_allclose(rows_of(X)[0], in_process, atol=1e-6)


def test_a_flipped_bit_in_a_shard_is_an_error_not_a_wrong_row(encoded, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(encoded, out, ignore=shutil.ignore_patterns("*.npy"))
    path = out / "shards" / "shard-000001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # amid the floats, by far the most of it
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-000001.* cannot be read.* Remove the file"):
        rows_of(open_embeddings(out))


def test_what_failed_can_be_tried_again(folder, tmp_path, lesions):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(folder, images)
    X = encode(images, lesion_encoder(), out, engine="local", shard_size=16)
    rows_of(X)
    Image.fromarray(lesions.images[BAD]).save(images / "a" / f"{BAD:03d}.png")
    assert len(encode(images, lesion_encoder(), out, engine="local").failed) == 1
    X = encode(images, lesion_encoder(), out, engine="local", retry_failed=True)
    assert X.failed.empty and X.present.all()
    assert np.isfinite(rows_of(X)[0]).all(), "the map is made again too"


def test_images_that_cannot_be_read_are_told_at_the_end_and_counted(folder, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):  # also where nothing is left to do
        with pytest.warns(skmoecbm.SkmoecbmWarning) as told:
            X = encode(folder, lesion_encoder(), out, engine="local", shard_size=16)
        (message,) = [str(one.message) for one in told]
        assert f"1 of {N} image(s) cannot be read" in message
        assert f"'a/{BAD:03d}.png': {X.failed.reason[0]} All are listed in" in message
        assert repr(str(out / "failed.csv")) in message
    assert "damaged" in X.failed.reason[0]
    whole = "ImageEmbeddings(40 images, 1 of them missing; 'demo-general')"
    assert repr(X) == whole
    fresh = open_embeddings(out)
    assert repr(fresh) == whole, "from the plan's shards"
    assert repr(fresh[BAD : BAD + 1]) == "ImageEmbeddings(1 images; 'demo-general')", "not known"
    assert fresh._parts[0]._failures is None, "no shard was read for it"
    assert repr(X[X.present]) == "ImageEmbeddings(39 images; 'demo-general')"
    assert repr(X[[0, BAD]]) == "ImageEmbeddings(2 images, 1 of them missing; 'demo-general')"


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder '.*genral'\. Name a folder"):
        open_embeddings(tmp_path / "genral")
    with pytest.raises(InputError, match=r"has no plan\.json"):
        open_embeddings(tmp_path)


def test_on_error_raise_names_the_image_and_keeps_what_is_done(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=rf"image 'a/{BAD:03d}.png' cannot be read: .*damaged"):
        encode(folder, lesion_encoder(), out, engine="local", shard_size=4, on_error="raise")
    assert [path.name for path in (out / "shards").iterdir()] == ["shard-000000.parquet"]


def test_a_run_does_not_go_on_with_other_weights(folder, tmp_path):
    demo = Path(skmoecbm.__file__).parent / "_demo"
    shutil.copytree(demo / "general", tmp_path / "model")
    encoder = lesion_encoder(f"local-dir:{tmp_path / 'model'}")
    encode(folder, encoder, tmp_path / "out", engine="local", shard_size=16)
    (tmp_path / "out" / "shards" / "shard-000001.parquet").unlink()
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(demo / "structures", tmp_path / "model")
    clear_backbones()
    with pytest.raises(BackboneError, match="another model here than the run began with"):
        encode(folder, encoder, tmp_path / "out", engine="local")
    # the same weights elsewhere are the same run
    shutil.copytree(demo / "general", tmp_path / "elsewhere" / "model")
    encoder.set_params(backbone=f"local-dir:{tmp_path / 'elsewhere' / 'model'}")
    assert len(encode(folder, encoder, tmp_path / "out", engine="local")) == N


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resize": "pad"}, "the model"),
        ({"backbone": "demo-structures"}, "the model"),
        ({"value_range": (0, 255)}, "value_range"),
    ],
)
def test_a_folder_is_of_one_run(encoded, folder, change, said):
    encoder = lesion_encoder().set_params(**change)
    with pytest.raises(InputError, match=f"another run; what differs: {said}"):
        encode(folder, encoder, encoded, engine="local")


def test_other_images_or_shards_are_another_run(encoded, folder, paths):
    with pytest.raises(InputError, match="what differs: the images"):
        encode(paths, lesion_encoder(), encoded, engine="local")
    with pytest.raises(InputError, match="what differs: shard_size"):
        encode(folder, lesion_encoder(), encoded, engine="local", shard_size=8)
    assert len(open_embeddings(encoded)) == N, "nothing was touched"


def test_an_encoder_of_another_model_is_told_what_differs(encoded):
    X = open_embeddings(encoded)
    for encoder, what in [
        (lesion_encoder(resize="pad"), r"preprocessing.resize_mode \('shortest' was recorded"),
        (lesion_encoder("demo-structures"), "weights .sha256"),
    ]:
        with pytest.raises(InputError, match=rf"those of 'demo-general' differ in .*{what}"):
            encoder.fit(X).transform(X)


def test_a_block_of_all_rows_is_mapped_and_texts_are_not_keys(encoded):
    X = open_embeddings(encoded)
    encoder = lesion_encoder()
    block = encoder.fit_transform(X).blocks[0]
    assert isinstance(block.embeddings, np.memmap) and not block.embeddings.flags.writeable
    with pytest.raises(InputError, match="sequence of texts, got ImageEmbeddings"):
        encoder.set_params(modality="text").fit(X)


def test_a_name_that_parquet_cannot_hold_is_told(tmp_path):
    with pytest.raises(InputError, match=r"not UTF-8.* Rename it"):
        encode(["a\udcff.png"], lesion_encoder(), tmp_path / "out", engine="local")


def test_folders_of_other_images_do_not_go_together(encoded, paths, tmp_path):
    encode(paths, lesion_encoder("demo-structures"), tmp_path / "s", engine="local")
    with pytest.raises(InputError, match="not of the same images in the same order"):
        open_embeddings(encoded, tmp_path / "s")
    with pytest.raises(InputError, match="of the same model"):
        open_embeddings(encoded, encoded)


def as_parquet(folder, paths, kind):
    """Write tables as users have them: two files, several row groups, bytes or paths."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    contents = [open(path, "rb").read() for path in paths]
    relative = [os.path.relpath(path, folder) for path in paths]
    cells = {
        "bytes": contents,
        "paths": relative,
        "hub": [{"bytes": c, "path": None} for c in contents],
    }[kind]
    for part, rows in enumerate((slice(0, 25), slice(25, N))):
        table = pa.table({"id": [f"p{i}" for i in range(N)][rows], "picture": cells[rows]})
        parquet.write_table(table, folder / f"{part}.parquet", row_group_size=7)


@pytest.mark.parametrize("kind", ["bytes", "paths", "hub"])
def test_tables_with_bytes_or_paths(kind, folder, paths, tmp_path, in_process):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    moved = [str(images / os.path.relpath(path, folder)) for path in paths]
    as_parquet(images, moved, kind)
    options = {"image_column": "picture", "root": images, "engine": "local", "shard_size": 16}
    X = encode(images, lesion_encoder(), tmp_path / "out", key_column="id", **options)
    np.testing.assert_allclose(rows_of(X)[0], in_process, atol=1e-6)
    assert X.keys.tolist() == [f"p{i}" for i in range(N)]
    X = encode([*images.glob("*.parquet")], lesion_encoder(), tmp_path / "no_ids", **options)
    last = os.path.relpath(paths[-1], folder) if kind == "paths" else "1.parquet:14"
    assert X.keys[-1] == last
    with pytest.raises(InputError, match=r"no column 'image'; it has \['id', 'picture'\]"):
        encode(images / "0.parquet", lesion_encoder(), tmp_path / "x", engine="local")


def test_a_list_of_paths_keeps_its_order_and_names(folder, paths, tmp_path, in_process):
    order = np.random.default_rng(0).permutation(N)
    names = [os.path.relpath(paths[i], folder) for i in order]
    X = encode(pd.Series(names), lesion_encoder(), tmp_path / "out", root=folder, engine="local")
    assert X.keys.tolist() == names
    np.testing.assert_allclose(rows_of(X)[0], in_process[order], atol=1e-6)


def test_a_hugging_face_data_set(folder, paths, tmp_path, in_process):
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    rows = {"image": paths, "id": list(range(N))}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    out = tmp_path / "out"
    X = encode(dataset, lesion_encoder(), out, key_column="id", engine="local", shard_size=16)
    np.testing.assert_allclose(rows_of(X)[0], in_process, atol=1e-6)
    assert X.keys.tolist() == [str(i) for i in range(N)]
    with pytest.raises(InputError, match="Choose one split"):
        encode(datasets.DatasetDict(train=dataset), lesion_encoder(), out, engine="local")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "demo-general"}, "'encoder' parameter of encode must be a ConceptEncoder"),
        ({"engine": "spark"}, "'engine' parameter of encode must be one of 'ray', 'local'"),
        ({"shard_size": 0}, "'shard_size' parameter of encode must be an integer of at least 1"),
        ({"on_error": "skip"}, "'on_error' parameter"),
        ({"source": 3}, "'source' parameter of encode must be a folder"),
        ({"source": []}, "list of images is empty"),
        ({"source": "nowhere"}, "neither a folder nor a .parquet file"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(folder, tmp_path, change, message):
    options = {"source": folder, "encoder": lesion_encoder(), "engine": "local", **change}
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message):
        encode(options.pop("source"), options.pop("encoder"), out, **options)
    assert not out.exists()


def test_without_the_extra_the_error_names_it(folder, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'skmoecbm\[ray\]', or pass engine='local'"):
        encode(folder, lesion_encoder(), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'skmoecbm\[ray\]'"):
        encode(folder, lesion_encoder(), tmp_path / "out", engine="local")
