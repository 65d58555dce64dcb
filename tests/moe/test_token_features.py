import pickle

import numpy as np
import pytest
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import indexable

from skmoecbm.exceptions import InputError
from skmoecbm.moe import TokenFeatures


def ragged(seed=0, dtype=np.float64):
    """Five rows of words, of which two have none."""
    rng = np.random.default_rng(seed)
    lengths = (3, 0, 1, 4, None)
    return [n if n is None else rng.standard_normal((n, 2)).astype(dtype) for n in lengths]


def images(n=5, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((n, 3, 4)).astype(dtype)


def both():
    return TokenFeatures({"image": images(), "text": ragged()})


def test_rows_are_what_was_given():
    features, words, patches = both(), ragged(), images()
    assert len(features) == features.n_rows == 5 and features.names == ("image", "text")
    assert features.shape == (5, 6) and features.ndim == 2
    assert features.present.tolist() == [[True, bool(w is not None and len(w))] for w in words]
    for i, row in enumerate(features):
        assert np.array_equal(row["image"], patches[i])
        if features.present[i, 1]:
            assert np.array_equal(row["text"], words[i])
        else:
            assert row["text"] is None


def test_numbers_stay_of_their_kind_and_where_they_are(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, images())
    mapped = np.load(path, mmap_mode="r")
    stream = TokenFeatures({"image": mapped})[2:].streams["image"]
    assert isinstance(stream.values, np.memmap) and np.shares_memory(stream.values, mapped)
    for dtype in (np.float16, np.float32, np.float64):
        assert TokenFeatures({"text": ragged(0, dtype)}).dtype == dtype
    assert TokenFeatures({"image": images(), "text": ragged()}).dtype == np.float64
    assert TokenFeatures({"image": np.ones((1, 2, 3), dtype=int)}).dtype == np.float64
    given = images()
    assert np.shares_memory(TokenFeatures({"image": given}).streams["image"].values, given)
    with pytest.raises(ValueError, match="read-only"):
        TokenFeatures({"image": given})[0]["image"][0, 0] = 1.0


@pytest.mark.parametrize(
    "key",
    [
        slice(1, 4),
        slice(None, None, -2),
        [4, 0, 0],
        np.array([3, -1]),
        np.array([True, False, True, False, True]),
        [],
    ],
)
def test_indexing_gives_the_same_rows_as_a_list_of_them(key):
    features, words, patches = both(), ragged(), images()
    at = np.arange(5)[key] if not isinstance(key, list) else np.array(key, dtype=int)
    some = features[key]
    assert len(some) == len(at)
    for found, i in zip(some, at, strict=True):
        assert np.array_equal(found["image"], patches[i])
        assert (found["text"] is None) == (words[i] is None or len(words[i]) == 0)
        assert found["text"] is None or np.array_equal(found["text"], words[i])
    tokens, mask = some.padded("text")
    assert mask.sum(axis=1).tolist() == [0 if words[i] is None else len(words[i]) for i in at]
    assert (tokens[~mask] == 0).all()
    assert np.array_equal(
        tokens[mask],
        np.concatenate([np.empty((0, 2)), *(words[i] for i in at if words[i] is not None)]),
    )


def test_scikit_learn_can_cut_it():
    features = both()
    assert indexable(features, np.arange(5))[0] is features
    train, test, y_train, _ = train_test_split(features, np.arange(5), random_state=0)
    assert isinstance(train, TokenFeatures) and train == features[y_train] and len(test) == 2
    assert [len(test) for _, test in KFold(5).split(features)] == [1] * 5


def test_three_ways_to_give_the_same_tokens():
    words = ragged()
    padded, mask = np.full((5, 6, 2), 7.0), np.zeros((5, 6), dtype=bool)
    for i, row in enumerate(words):
        places = np.arange(5, 5 - len(row), -1)[::-1] if row is not None else []
        padded[i, places], mask[i, places] = (row if row is not None else 0), True
    listed = TokenFeatures({"text": words})
    assert TokenFeatures({"text": (padded, mask)}) == listed  # padded on the left
    right, right_mask = listed.padded("text")
    assert TokenFeatures({"text": (right, right_mask)}) == listed
    gone = np.where(mask[:, ::-1, None], right_filled(words), np.nan)
    assert TokenFeatures({"text": [row[~np.isnan(row[:, 0])] for row in gone]}) == listed
    lengths = [0 if row is None else len(row) for row in words]
    values = np.concatenate([row for row in words if row is not None])
    flat = TokenFeatures.from_flat({"text": (values, np.cumsum([0, *lengths]))})
    assert flat == listed and np.shares_memory(flat.streams["text"].values, values)


def right_filled(words):
    return np.stack(
        [
            np.concatenate([np.zeros((0, 2)) if w is None else w, np.zeros((6, 2))])[:6]
            for w in words
        ]
    )


def test_a_row_of_nan_lacks_the_stream_and_a_gap_is_an_error():
    tokens = images()
    tokens[1] = np.nan
    assert TokenFeatures({"image": tokens}).present[:, 0].tolist() == [True, False] + [True] * 3
    tokens[3, 1, 2] = np.nan
    with pytest.raises(InputError, match=r"'image': row 3 has NaN \(in token 1\)\. Mend it"):
        TokenFeatures({"image": tokens})
    tokens[3, 1, 2] = np.inf
    with pytest.raises(InputError, match="row 3 has an infinite value"):
        TokenFeatures({"image": tokens})
    mask = np.ones((5, 3), dtype=bool)
    mask[3, 1] = False
    assert TokenFeatures({"image": (tokens, mask)}).streams["image"].lengths[3] == 2


def test_streams_are_joined_and_picked():
    features = both()
    image, text = features.select("image"), features.select(["text"])
    assert image.join(text) == features
    assert features.select(["text", "image"]).names == ("text", "image")
    assert text.join(image) != features  # another order of streams
    assert features[1:] != features and features != "features"
    other = ragged()
    other[0] = other[0] + 1e-12
    assert TokenFeatures({"text": other}) != text


def test_a_pickle_holds_the_rows_that_were_picked_alone():
    features = TokenFeatures({"image": images(400), "text": ragged() * 80})
    few = features[[7, 3, 399]]
    dumped = pickle.dumps(few)
    assert pickle.loads(dumped) == few and len(dumped) < 2000
    assert pickle.loads(pickle.dumps(features)) == features
    assert not pickle.loads(dumped).streams["image"].values.flags.writeable


def test_it_tells_what_it_holds():
    assert repr(both()) == (
        "TokenFeatures(5 rows; 'image': 3 tokens of width 4, 'text': 1 to 4 tokens of width 2, "
        "2 without)"
    )
    one = TokenFeatures({"text": np.ones((2, 1, 3))})
    assert repr(one) == "TokenFeatures(2 rows; 'text': 1 token of width 3)"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TokenFeatures([images()]), "needs a dict of stream name to tokens"),
        (lambda: TokenFeatures({}), "with one stream at least"),
        (lambda: TokenFeatures({1: images()}), "named by a str. Got 1"),
        (lambda: TokenFeatures({"image": images()[0]}), r"shape \(n, T, d\).*Got shape \(3, 4\)"),
        (lambda: TokenFeatures({"image": 3}), "Got int"),
        (lambda: TokenFeatures({"text": [None, []]}), "no row has a token"),
        (lambda: TokenFeatures({"text": [np.ones((2, 3)), np.ones(3)]}), r"row 1 .*\(T_i, 3\)"),
        (lambda: TokenFeatures({"text": [np.ones((2, 3)), np.ones((2, 4))]}), "as the rows before"),
        (lambda: TokenFeatures({"text": [["a", "b"]]}), "must hold"),
        (lambda: TokenFeatures({"image": images().astype(complex)}), "real numbers"),
        (lambda: TokenFeatures({"a": images(3), "b": images(4)}), "same number of rows"),
        (lambda: TokenFeatures({"a": (images(), np.ones((5, 2)))}), r"must have shape \(5, 3\)"),
        (lambda: TokenFeatures({"a": (images(), np.full((5, 3), 2))}), "with other values"),
        (lambda: TokenFeatures.from_flat({"a": images()}), "dict of stream name to"),
        (lambda: TokenFeatures.from_flat({"a": (np.ones((4, 2)), [0, 3])}), "rise from 0 to S"),
        (lambda: TokenFeatures.from_flat({"a": (np.ones((4, 2)), [0, 3, 2, 4])}), "rise from 0"),
        (lambda: both().join(both()), "Both have a stream 'image'"),
        (lambda: both().join(images()), "another TokenFeatures"),
        (lambda: both().select("sound"), "no stream 'sound' here; there are"),
        (lambda: both().select([]), "No stream was named"),
        (lambda: both()[0, 1], "rows alone"),
        (lambda: both()["image"], "features.select"),
        (lambda: both()[[0.5]], "rows alone"),
        (lambda: np.asarray(both()), "cannot become one array"),
    ],
)
def test_what_cannot_be_used_is_told(make, told):
    with pytest.raises(InputError, match=told):
        make()


def test_rows_are_read_in_pieces_of_bounded_size(monkeypatch):
    monkeypatch.setattr("skmoecbm.moe._token_stream._CHUNK", 8)
    features, words = both(), ragged()
    assert features == both() and features != both()[::-1]
    chunks = list(features[[3, 2, 0]].streams["text"].chunks())
    assert all(len(chunk) <= 4 for chunk in chunks)
    assert np.array_equal(np.concatenate(chunks), np.concatenate([words[i] for i in (3, 2, 0)]))
    assert pickle.loads(pickle.dumps(features[[3, 1, 0]])) == features[[3, 1, 0]]
