import hashlib
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from skmoecbm import FormatError
from skmoecbm._model_arrays import stored_arrays
from skmoecbm.schema import ArrayEntry
from tests.model_mutations import read_arrays, write_arrays

DTYPES = st.sampled_from(["float64", "float32", "int64", "bool"])
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    DTYPES.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0))),
    max_size=5,
)
TWO = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([3, -1], dtype=np.int64)}


def _config(content, arrays):
    entries = {n: ArrayEntry(shape=a.shape, dtype=a.dtype.name) for n, a in arrays.items()}
    return SimpleNamespace(arrays=entries, arrays_sha256=hashlib.sha256(content).hexdigest())


def _read(folder, content, arrays):
    (folder / "model.safetensors").write_bytes(content)
    with stored_arrays(folder, _config(content, arrays)) as stored:
        return {name: np.asarray(array) for name, array in stored.items()}


@settings(deadline=None, max_examples=50)
@given(ARRAYS)
def test_arrays_are_those_that_the_safetensors_library_wrote(tmp_path_factory, arrays):
    content = safetensors.numpy.save(arrays)
    found = _read(tmp_path_factory.mktemp("model"), content, arrays)
    expected = safetensors.numpy.load(content)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].flags.writeable or not found[name].size


def test_an_array_is_not_read_before_it_is_asked_for(tmp_path):
    # 64 MiB that are a hole in the file: reading it would take the memory
    large = np.broadcast_to(np.float64(0), (2**23,))
    entry = {"dtype": "F64", "shape": [2**23], "data_offsets": [0, 2**26]}
    header = json.dumps({"large": entry}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2**26)
    config = _config(b"", {"large": large})
    with (tmp_path / "model.safetensors").open("rb") as file:
        config.arrays_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    import tracemalloc

    tracemalloc.start()
    with stored_arrays(tmp_path, config) as stored:
        assert stored["large"].shape == (2**23,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def _with_header(header, body=None, length=None):
    body = write_arrays(TWO).split(b"}}", 1)[1].lstrip(b" ") if body is None else body
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(**changes):
    """The header of `TWO`, with changes of its second array."""
    a = {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 48]}
    return {"a": a, "b": {"dtype": "I64", "shape": [2], "data_offsets": [48, 64], **changes}}


BODY = b"".join(array.tobytes() for array in TWO.values())


def test_the_honest_header_is_read(tmp_path):
    found = _read(tmp_path, _with_header(_entry(), BODY), TWO)
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in TWO.items()}
    np.testing.assert_equal(read_arrays(write_arrays(TWO)), TWO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole header"),
        (b"\0" * 7, "no whole header"),
        (_with_header(_entry(), BODY, length=2**63), "no whole header"),
        (_with_header(_entry(), BODY, length=10**6), "no whole header"),
        (_with_header(_entry(), BODY, length=10), "not valid JSON"),
        (_with_header(b"[]", BODY), "must hold a JSON object"),
        (_with_header(b"[" * 3000, BODY), "nested 3000 deep"),
        (_with_header(b"{}", BODY), "Got nothing"),
        (_with_header(_entry(data_offsets=[40, 56]), BODY), "lies at bytes 40 to 56"),
        (_with_header(_entry(data_offsets=[0, 16]), BODY), "not a safetensors file"),
        (_with_header(_entry(data_offsets=[64, 48]), BODY), "lies at bytes 64 to 48"),
        (_with_header(_entry(data_offsets=[-16, 0]), BODY), "lies at bytes -16 to 0"),
        (_with_header(_entry(data_offsets=[48, 72]), BODY), "lies at bytes 48 to 72"),
        (_with_header(_entry(data_offsets=[48]), BODY), "in its header"),
        (_with_header(_entry(data_offsets=["48", 64]), BODY), "in its header"),
        (_with_header(_entry(shape=[2**31, 2**31]), BODY), "Got int64 of shape"),
        (_with_header(_entry(shape=["2"]), BODY), "in its header"),
        (_with_header(_entry(shape=[True]), BODY), "in its header"),
        (_with_header(_entry(shape=[1] * 1000), BODY), "in its header"),
        (_with_header(_entry(dtype="F64"), BODY), "Got float64 of shape"),
        (_with_header(_entry(dtype="object"), BODY), "Got object of shape"),
        (_with_header(_entry(dtype=8), BODY), "in its header"),
        (_with_header(_entry(more=1), BODY), "in its header"),
        (_with_header(_entry() | {"__metadata__": {"a": "b"}}, BODY), "in its header|not list"),
        (_with_header(_entry(), BODY + b"more"), "68 are there"),
        (_with_header(_entry(), BODY[:-1]), "63 are there"),
        (_with_header(_entry(), b""), "0 are there"),
    ],
)
def test_a_hostile_header_ends_in_a_format_error(tmp_path, content, message):
    with pytest.raises(FormatError, match=message):
        _read(tmp_path, content, TWO)


def test_another_file_than_was_saved_and_truth_values_of_two_are_refused(tmp_path):
    content = write_arrays(TWO)
    (tmp_path / "model.safetensors").write_bytes(content + b"x")
    with pytest.raises(FormatError, match="cut short, damaged or replaced"):
        with stored_arrays(tmp_path, _config(content, TWO)):
            pass
    flags = {"a": np.array([True, False])}
    with pytest.raises(FormatError, match="truth values other than 0 and 1"):
        _read(tmp_path, write_arrays(flags)[:-1] + b"\2", flags)
