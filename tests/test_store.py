import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skmoecbm import store as store_module
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.store import EmbeddingStore, default_cache_dir

FINGERPRINT = "backbone-a"


def row_of(key, fingerprint=FINGERPRINT, dim=16):
    """The one right row of a key: any reader can tell a wrong answer without the writer."""
    seed = hashlib.sha256(f"{fingerprint}/{key}".encode()).digest()
    return np.random.default_rng(list(seed)).standard_normal(dim).astype(np.float32)


def rows_of(keys, fingerprint=FINGERPRINT):
    return np.stack([row_of(key, fingerprint) for key in keys])


def names(start, stop):
    return [f"image-{i}" for i in range(start, stop)]


def files_in(folder):
    return sorted(Path(folder).glob("*/*.safetensors"))


def assert_never_wrong(folder, keys, fingerprint=FINGERPRINT):
    found, rows = EmbeddingStore(folder).get(fingerprint, keys)
    expected = [row_of(key, fingerprint) for key, there in zip(keys, found, strict=True) if there]
    if expected:
        np.testing.assert_array_equal(rows[found], np.stack(expected))
    assert np.isnan(rows[~found]).all()
    return found


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    store = EmbeddingStore(tmp_path / "cache" if request.param == "folder" else None)
    store.clear()
    yield store
    store.clear()


def test_rows_come_back_under_their_keys_and_missing_ones_are_nan(store):
    keys = names(0, 10)
    store.put(FINGERPRINT, keys, rows_of(keys))
    asked = ["image-7", "unknown", "image-0", "image-7"]
    found, rows = store.get(FINGERPRINT, asked)
    assert found.tolist() == [True, False, True, True]
    assert rows.dtype == np.float32 and rows.shape == (4, 16)
    np.testing.assert_array_equal(rows[found], rows_of(["image-7", "image-0", "image-7"]))
    assert np.isnan(rows[1]).all()


def test_an_empty_store_finds_nothing(store):
    found, rows = store.get(FINGERPRINT, ["a", "b"])
    assert not found.any()
    assert rows.shape == (2, 0)
    found, rows = store.get(FINGERPRINT, [])
    assert found.shape == (0,) and len(rows) == 0


def test_fingerprints_do_not_share_rows(store):
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    store.put("backbone-b", ["a"], rows_of(["a"], "backbone-b"))
    np.testing.assert_array_equal(store.get(FINGERPRINT, ["a"])[1], rows_of(["a"]))
    np.testing.assert_array_equal(store.get("backbone-b", ["a"])[1], rows_of(["a"], "backbone-b"))
    assert not store.get("backbone-c", ["a"])[0].any()


def test_rows_handed_out_are_copies(store):
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    store.get(FINGERPRINT, ["a"])[1][:] = 0
    np.testing.assert_array_equal(store.get(FINGERPRINT, ["a"])[1], rows_of(["a"]))


def test_stores_of_the_same_place_share_their_content(store):
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    assert EmbeddingStore(store.folder).get(FINGERPRINT, ["a"])[0].all()
    assert pickle.loads(pickle.dumps(store)).get(FINGERPRINT, ["a"])[0].all()


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(
        st.dictionaries(st.text(max_size=6), arrays(np.float32, 3, elements=finite), min_size=1),
        min_size=1,
        max_size=4,
    ),
    in_memory=st.booleans(),
)
def test_any_sequence_of_batches_round_trips_bit_for_bit(tmp_path_factory, batches, in_memory):
    store = EmbeddingStore(None if in_memory else tmp_path_factory.mktemp("store"))
    store.clear()
    expected = {}
    for batch in batches:
        # equal content for an equal key, as the key is a hash of the content
        batch = {key: expected.get(key, row) for key, row in batch.items()}
        expected.update(batch)
        store.put("any", list(batch), np.stack(list(batch.values())))
    found, rows = store.get("any", list(expected))
    assert found.all()
    assert rows.tobytes() == np.stack(list(expected.values())).tobytes()


def test_many_small_batches_become_few_files_and_lose_nothing(tmp_path):
    store = EmbeddingStore(tmp_path)
    keys = names(0, 600)
    for start in range(0, 600, 2):
        store.put(FINGERPRINT, keys[start : start + 2], rows_of(keys[start : start + 2]))
    assert len(files_in(tmp_path)) < 50
    assert assert_never_wrong(tmp_path, keys).all()
    raw = 600 * 16 * 4
    assert store.info()["bytes"] < 1.4 * raw + 50 * 400  # keys and checks are 20 bytes a row


def test_merging_keeps_one_row_of_a_key_put_twice(tmp_path):
    store = EmbeddingStore(tmp_path)
    for i in range(40):
        keys = ["shared", f"own-{i}"]
        store.put(FINGERPRINT, keys, rows_of(keys))
    copies = store.info()["backbones"][0]["embeddings"] - 40
    assert copies == len(files_in(tmp_path))
    assert assert_never_wrong(tmp_path, ["shared", "own-0", "own-39"]).all()


def test_overhead_on_disk_is_under_a_tenth_at_512_floats(tmp_path):
    rows = np.random.default_rng(0).standard_normal((2000, 512)).astype(np.float32)
    store = EmbeddingStore(tmp_path)
    store.put(FINGERPRINT, names(0, 2000), rows)
    assert sum(path.stat().st_size for path in files_in(tmp_path)) < 1.1 * rows.nbytes


def test_a_large_put_is_cut_into_files_that_can_be_evicted_one_by_one(tmp_path):
    store = EmbeddingStore(tmp_path, max_bytes=64_000)
    keys = names(0, 500)
    store.put(FINGERPRINT, keys, rows_of(keys))
    assert len(files_in(tmp_path)) >= 4
    assert assert_never_wrong(tmp_path, keys).all()


@pytest.mark.parametrize("damage", ["row", "key", "header", "short", "empty", "text"])
def test_a_damaged_file_is_ignored_with_a_warning_and_removed_by_verify(tmp_path, damage):
    store = EmbeddingStore(tmp_path)
    good, bad = names(0, 5), names(5, 10)
    store.put(FINGERPRINT, good, rows_of(good))
    before = set(files_in(tmp_path))
    store.put(FINGERPRINT, bad, rows_of(bad))
    (path,) = set(files_in(tmp_path)) - before
    content = bytearray(path.read_bytes())
    at = {
        "row": content.index(row_of("image-5").tobytes()) + 3,
        "key": content.index(store_module.digest_keys(["image-5"]).tobytes()),
        "header": 4,
    }
    if damage in at:
        content[at[damage]] ^= 0x40
    content = {"short": content[:-7], "empty": b"", "text": b"not a store"}.get(damage, content)
    path.write_bytes(bytes(content))

    if damage == "key":  # the key no longer leads there: as if it had never been stored
        found = assert_never_wrong(tmp_path, good + bad)
    else:
        with pytest.warns(SkmoecbmWarning, match="skmoecbm cache verify"):
            found = assert_never_wrong(tmp_path, good + bad)
    assert found[:5].all() and not found[5]
    result = store.verify()
    assert result["removed"] == [str(path)]
    assert (result["files"], result["embeddings"]) == (1, 5)
    store.put(FINGERPRINT, bad, rows_of(bad))
    assert assert_never_wrong(tmp_path, good + bad).all()
    assert store.verify()["removed"] == []


def test_a_file_moved_to_another_backbone_is_no_answer(tmp_path):
    store = EmbeddingStore(tmp_path)
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    store.put("backbone-b", ["b"], rows_of(["b"]))
    (source,) = [
        p for p in files_in(tmp_path) if p.parent.name == store_module._directory("backbone-b")
    ]
    moved = tmp_path / store_module._directory(FINGERPRINT) / source.name
    os.replace(source, moved)
    with pytest.warns(SkmoecbmWarning, match="belongs to another backbone"):
        found, _ = store.get(FINGERPRINT, ["a", "b"])
    assert found.tolist() == [True, False]
    assert store.verify()["removed"] == [str(moved)]


def test_the_bound_evicts_what_was_used_longest_ago(tmp_path):
    store = EmbeddingStore(tmp_path, max_bytes=25_000)
    batches = [names(start, start + 40) for start in range(0, 400, 40)]
    for age, keys in enumerate(batches):
        store.put(FINGERPRINT, keys, rows_of(keys))
        for path in files_in(tmp_path):  # a day older with each batch; those in use stay new
            if time.time() - path.stat().st_mtime < 60:
                os.utime(path, (time.time() - 86400 * (50 - age),) * 2)
        assert store.get(FINGERPRINT, batches[0])[0].all()  # a use renews
    assert store.info()["bytes"] <= 25_000
    found = [store.get(FINGERPRINT, keys)[0].all() for keys in batches]
    assert found[0] and found[-1]
    assert not all(found)
    assert not found[1]


def test_the_bound_holds_in_memory():
    store = EmbeddingStore(None, max_bytes=10 * 64)
    store.clear()
    store.put(FINGERPRINT, names(0, 8), rows_of(names(0, 8)))
    store.put(FINGERPRINT, names(8, 16), rows_of(names(8, 16)))
    found, _ = store.get(FINGERPRINT, names(0, 16))
    assert found.tolist() == [False] * 6 + [True] * 10
    store.clear()


def test_the_newest_batch_stays_even_if_it_is_larger_than_the_bound(tmp_path):
    store = EmbeddingStore(tmp_path, max_bytes=1)
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    assert store.get(FINGERPRINT, ["a"])[0].all()


def test_clear_removes_the_stores_files_and_no_others(tmp_path):
    store = EmbeddingStore(tmp_path)
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    (path,) = files_in(tmp_path)
    mine = [tmp_path / "mine.safetensors", tmp_path / "model" / "weights.safetensors"]
    mine[1].parent.mkdir()
    for own in mine:
        own.write_bytes(b"precious")
    n_bytes = path.stat().st_size
    assert store.clear() == {"files": 1, "bytes": n_bytes}
    assert not path.exists() and not path.parent.exists()
    assert all(own.read_bytes() == b"precious" for own in mine)
    assert not store.get(FINGERPRINT, ["a"])[0].any()
    assert store.verify() == {"files": 0, "embeddings": 0, "removed": []}


def test_info_counts_what_is_there(store):
    store.put(FINGERPRINT, names(0, 3), rows_of(names(0, 3)), label="demo")
    store.put(FINGERPRINT, names(3, 5), rows_of(names(3, 5)), label="demo")
    info = store.info()
    (entry,) = info["backbones"]
    assert (entry["fingerprint"], entry["embeddings"], entry["dim"]) == (FINGERPRINT, 5, 16)
    assert info["bytes"] == entry["bytes"] >= 5 * 64
    assert info["max_bytes"] == 4 * 2**30
    if store.folder is not None:
        assert entry["label"] == "demo"
        assert info["bytes"] == sum(path.stat().st_size for path in files_in(store.folder))


def test_a_folder_that_cannot_be_written_warns_once_and_memory_serves(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = EmbeddingStore(blocked / "cache")
    with pytest.warns(SkmoecbmWarning, match=r"cannot be written .* SKMOECBM_CACHE") as caught:
        store.put(FINGERPRINT, ["a"], rows_of(["a"]))
        store.put(FINGERPRINT, ["b"], rows_of(["b"]))
    assert len(caught) == 1
    assert store.get(FINGERPRINT, ["a", "b"])[0].all()
    store.clear()


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(SkmoecbmWarning, match="No space left"):
        store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.get(FINGERPRINT, ["a"])[0].all()
    store.clear()


@pytest.mark.parametrize(
    ("keys", "rows", "message"),
    [
        (["a"], np.zeros((2, 3)), r"shape \(1, d\)"),
        (["a"], np.zeros(3), r"shape \(1, d\)"),
        (["a"], np.zeros((1, 0)), r"shape \(1, d\)"),
        (["a", "b"], [[0.0, 1.0], [0.0, np.nan]], "Row 1 .* NaN"),
        (["a"], [[np.inf]], "Row 0 .* infinity"),
        ("a", np.zeros((1, 3)), "sequence of strings"),
        ([None], np.zeros((1, 3)), "sequence of strings"),
    ],
)
def test_what_cannot_be_stored_is_refused(store, keys, rows, message):
    with pytest.raises(InputError, match=message):
        store.put(FINGERPRINT, keys, rows)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, None, "4 GiB"])
def test_a_bound_that_is_no_positive_integer_is_refused(max_bytes):
    with pytest.raises(InputError, match="'max_bytes' parameter of EmbeddingStore"):
        EmbeddingStore(None, max_bytes=max_bytes)


def test_nothing_is_created_before_the_first_put(tmp_path):
    store = EmbeddingStore(tmp_path / "cache")
    store.get(FINGERPRINT, ["a"])
    store.info(), store.verify(), store.clear()
    store.put(FINGERPRINT, [], np.zeros((0, 4)))
    assert not (tmp_path / "cache").exists()


def test_the_default_folder_follows_the_environment_at_call_time(monkeypatch, tmp_path):
    monkeypatch.setenv("SKMOECBM_CACHE", str(tmp_path / "one"))
    assert default_cache_dir().parent == tmp_path / "one"
    assert EmbeddingStore().folder == default_cache_dir()
    monkeypatch.delenv("SKMOECBM_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert default_cache_dir().parent == tmp_path / "two" / "skmoecbm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir().parent == tmp_path / "home" / ".cache" / "skmoecbm"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_cache_dir().parent == tmp_path / "home" / "Library" / "Caches" / "skmoecbm"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_cache_dir().parent == tmp_path / "local" / "skmoecbm" / "Cache"


def write_in_turns(folder, offset, barrier):
    store = EmbeddingStore(folder)
    barrier.wait()
    for start in range(0, 120, 3):
        # half of the keys are every writer's, half its own
        keys = [*names(start, start + 3), *(f"{offset}-{key}" for key in names(start, start + 3))]
        store.put(FINGERPRINT, keys, rows_of(keys))
        if not store.get(FINGERPRINT, keys)[0].all():
            raise SystemExit(1)


def test_processes_writing_at_once_lose_nothing_and_see_their_own_rows(tmp_path):
    context = multiprocessing.get_context("fork")  # torch would take seconds to import in each
    barrier = context.Barrier(4)
    writers = [
        context.Process(target=write_in_turns, args=(tmp_path, i, barrier)) for i in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert [writer.exitcode for writer in writers] == [0] * 4
    keys = names(0, 120) + [f"{i}-{key}" for i in range(4) for key in names(0, 120)]
    assert assert_never_wrong(tmp_path, keys).all()
    assert EmbeddingStore(tmp_path).verify()["removed"] == []


def write_for_ever(folder, pipe):
    store = EmbeddingStore(folder, max_bytes=100_000)
    for start in range(0, 10**6, 2):
        keys = names(start, start + 2)
        store.put(FINGERPRINT, keys, rows_of(keys))
        pipe.send(start + 2)


def test_a_writer_killed_at_any_moment_leaves_no_wrong_answer(tmp_path):
    context = multiprocessing.get_context("fork")
    random = np.random.default_rng(0)
    for _ in range(50):
        receiver, sender = context.Pipe(duplex=False)
        writer = context.Process(target=write_for_ever, args=(tmp_path, sender))
        writer.start()
        assert receiver.poll(30)
        time.sleep(float(random.uniform(0.0, 0.1)))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        sender.close()
        done = 0
        while receiver.poll():
            try:
                done = receiver.recv()
            except EOFError:
                break
        assert done > 0
        found = assert_never_wrong(tmp_path, names(0, done))
        assert found.all()  # what put had returned for is there
    assert EmbeddingStore(tmp_path).verify()["removed"] == []  # complete files only


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path):
    store = EmbeddingStore(tmp_path)
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    rest = files_in(tmp_path)[0].with_name("0123456789abcdef.tmp")
    rest.write_bytes(b"half")
    assert store.verify()["removed"] == []  # its writer may be alive
    os.utime(rest, (time.time() - 7200,) * 2)
    assert store.verify()["removed"] == [str(rest)]


def test_files_merged_by_another_process_during_a_read_are_found_again(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)
    keys = names(0, 12)
    for start in range(0, 12, 2):
        store.put(FINGERPRINT, keys[start : start + 2], rows_of(keys[start : start + 2]))
    listing = store._paths(FINGERPRINT)
    calls = []

    def paths_then_merge(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            store_module.merge_files(listing, FINGERPRINT, 10**6)
            return listing
        return original(self, *args, **kwargs)

    original = EmbeddingStore._paths
    monkeypatch.setattr(EmbeddingStore, "_paths", paths_then_merge)
    found, rows = store.get(FINGERPRINT, keys)
    assert found.all() and len(calls) == 2
    np.testing.assert_array_equal(rows, rows_of(keys))


def test_a_file_removed_while_it_is_being_opened_is_a_miss(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)
    store.put(FINGERPRINT, ["a"], rows_of(["a"]))
    opened = torch.UntypedStorage.from_file

    def remove_and_open(name, *args, **kwargs):  # the second opening, by torch
        files_in(tmp_path)[0].unlink()
        return opened(name, *args, **kwargs)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", remove_and_open)
    assert not store.get(FINGERPRINT, ["a"])[0].any()
    assert files_in(tmp_path) == []
