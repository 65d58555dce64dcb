import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skmoecbm import FormatError
from skmoecbm._config_bytes import read_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.text('[]{},:"\\', max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=8), VALUES), st.booleans())
def test_what_json_wrote_is_read_back(data, ascii_only):
    text = json.dumps(data, ensure_ascii=ascii_only)
    assert read_object(text, "It") == data == read_object(text.encode(), "It")


def _depth(node):
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    return 0 if children is None else 1 + max(map(_depth, children), default=0)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text('[]{}"\\', max_size=8), VALUES))
def test_depth_is_that_of_the_values_and_not_of_brackets_in_texts(data):
    depth = _depth(data)
    assert read_object(json.dumps(data), "It", max_depth=depth) == data
    with pytest.raises(FormatError, match=f"nested {depth} deep; at most {depth - 1}"):
        read_object(json.dumps(data), "It", max_depth=depth - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold a JSON object. Got list"),
        ("3", "Got int"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "1e999 is beyond float64"),
        ('{"a": -1e999}', "beyond float64"),
        ('{"a": ' + "1" * 5000 + "}", "more than 20 digits"),
        ('{"a": -' + "1" * 21 + "}", "more than 20 digits"),
        (r'{"a": "\ud800"}', "half a surrogate pair"),
        (r'{"\udc00\ud800": 1}', "half a surrogate pair"),
        ('{"a": "\ud800"}', "not valid JSON"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ('{"a": "b}', "not valid JSON"),
        ('{"a": "\\', "not valid JSON"),
        ('{"a": 1}}', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": 1} // no', "not valid JSON"),
        ("", "not valid JSON"),
        ("\0", "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        ('{"a": 1}'.encode("utf-8-sig"), "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_object_ends_in_a_format_error(text, message):
    with pytest.raises(FormatError, match=message):
        read_object(text, "It")


def test_a_whole_surrogate_pair_is_text():
    assert read_object(r'{"a": "\ud83d\ude00"}', "It") == {"a": "😀"}


BOMBS = {
    "objects": lambda: b'{"a":[' + b"{}," * 150_000 + b"0]}",
    "lists": lambda: b'{"a":[' + b"[]," * 800_000 + b"0]}",
    "values": lambda: b'{"a":[' + b"0," * 1_500_000 + b"0]}",
    "keys": lambda: b"{" + b",".join(b'"%d":0' % i for i in range(100_001)) + b"}",
    "deep": lambda: b"[" * 1_000_000,
    "deep objects": lambda: b'{"a":' * 200_000,
    "texts": lambda: b'{"a":[' + b'"",' * 1_600_000 + b"0]}",
    "open text": lambda: b'{"a":"' + b'\\"' * 2_000_000 + b"\\",
    "quotes": lambda: b'{"a":"' + b'\\"' * 6_000_001,
    "numbers": lambda: b'{"a":[' + b"1.5," * 1_600_000 + b"0]}",
    "large": lambda: b'{"a":"' + b"x" * 48 * 2**20 + b'"}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_made(name):
    bomb = BOMBS[name]()
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(FormatError):
        read_object(bomb, "It")
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250 * 2**20, f"{name}: {peak / 2**20:.0f} MB"
    assert took < 30, f"{name}: {took:.1f} s"  # not quadratic, that is: it would be hours


def test_a_bank_as_large_as_that_of_imagenet_fits():
    concept = {
        "text": "a concept of about forty characters, no 00000",
        "facet": None,
        "classes": ["n01440764"],
        "against": [],
        "phrases": [],
        "backbones": None,
        "negative": None,
        "source": None,
        "note": None,
    }
    text = json.dumps(
        {"encoders": [[concept] * 50_000] * 2, "names": ["clip__" + "x" * 40] * 10**5}
    )
    assert len(read_object(text, "It")["encoders"][1]) == 50_000
