"""What errors advise depends on the case, and whoever does as they say gets on."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import (
    Balancing,
    CrossModalMoEClassifier,
    MiniBatches,
    MultiTimeAttention,
    SparseMoEClassifier,
    TextTokenEncoder,
    TokenFeatures,
    pack_series,
)
from skmoecbm.moe._text_tokens import TextTowerTokens
from tests.language_models import WORDS, write_bert

QUICK = MiniBatches(max_epochs=1)
y = np.arange(40) % 2


def tokens(many=3, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((len(y), many, width))


def table(width=4):
    return np.random.default_rng(0).standard_normal((len(y), width))


def sparse(**settings):
    return SparseMoEClassifier(
        **{"n_experts": 3, "expert_hidden": 4, "training": QUICK, "random_state": 0, **settings}
    )


def cross(**settings):
    settings = {"n_experts": 3, "expert_hidden": 4, "width": 4, "training": QUICK, **settings}
    return CrossModalMoEClassifier(random_state=0, **settings)


def refused(call, *arguments, **settings):
    """Return the sentence with which a call is refused."""
    with pytest.raises(InputError) as error:
        call(*arguments, **settings)
    return str(error.value)


def test_apart_is_a_matter_of_routers_per_modality():
    blocks = {"a": [0, 1], "b": [2, 3]}
    wish = Balancing(modality_entropy=0.5)
    for router in ("joint", "disjoint"):
        clf = sparse(balancing=wish, modalities=blocks, router=router)
        told = refused(clf.fit, table(), y)
        assert f"needs router='per_modality'. Got router='{router}'; set it to 0." in told
    clf.set_params(router="per_modality").fit(table(), y)
    # there is no router to choose here
    clf = cross(balancing=wish)
    told = refused(clf.fit, TokenFeatures({"image": tokens()}), y)
    assert "and CrossModalMoEClassifier has one router for all of them; set it to 0." in told
    assert "per_modality" not in told
    clf.set_params(balancing__modality_entropy=0.0).fit(TokenFeatures({"image": tokens()}), y)


@pytest.mark.parametrize("make", [sparse, cross])
def test_a_balance_of_all_experts_needs_another_loss(make):
    clf = make(top_k=3, balancing=Balancing())
    told = refused(clf.fit, table(), y)
    assert re.search(r"\(top_k=3 of 3\)\. Use Balancing\(loss='importance'\)\.$", told)
    clf.set_params(balancing__loss="importance").fit(table(), y)
    clf.set_params(balancing=Balancing(weight=0.0)).fit(table(), y)  # nor where it has no weight
    make(top_k=1, n_experts=1, balancing=Balancing()).fit(table(), y)


def test_a_splitter_may_leave_nobody():
    class Odd:
        def split(self, X, y=None, groups=None):
            yield np.arange(0), np.arange(len(X))

    told = refused(sparse(training=MiniBatches(validation_fraction=Odd())).fit, table(), y)
    assert told.endswith(
        "leaves no row to train or to validate. Give another splitter, or a share."
    )


def test_a_score_that_is_no_number_has_two_ways_on():
    class Few:
        def __init__(self, rows):
            self.rows = rows

        def split(self, X, y=None, groups=None):
            yield np.arange(20), self.rows

    def fit(rows, scoring):
        training = MiniBatches(max_epochs=1, validation_fraction=Few(rows), scoring=scoring)
        return sparse(training=training).fit(table(), y)

    of_one_class = np.flatnonzero(y == 1)[-3:]
    with pytest.warns():
        told = refused(fit, of_one_class, "roc_auc")
    assert told.endswith("Hold out more (validation_fraction), or score by None.")
    assert fit(np.arange(20, 40), "roc_auc").n_iter_ == fit(of_one_class, None).n_iter_ == 1


def test_what_diverges_tells_its_learning_rate():
    wild = MiniBatches(learning_rate=1e200, warmup_epochs=0, max_epochs=3, early_stopping=False)
    told = refused(sparse(training=wild).fit, table(), y)
    assert re.search(
        r"diverged in epoch \d+: the loss is (nan|inf)\. Lower .* \(now 1e\+200\)", told
    )


def test_a_stream_that_nobody_has_is_left_out_where_there_is_another():
    gone = tokens() * np.nan
    told = refused(cross().fit, TokenFeatures({"image": tokens(), "text": gone}), y)
    assert told.endswith("Give it tokens in some, or leave it out.")
    for alone in (TokenFeatures({"text": gone}), table() * np.nan):
        assert refused(cross().fit, alone, y).endswith("Give it tokens in some.")


@pytest.mark.parametrize(
    ("X", "streams", "told"),
    [
        (table(1), "auto", r"'columns' has one token per row \(n_features=1\)\. Attention"),
        (table(), {"a": ([0, 1], 2)}, "'a' has one token per row, such as CLS alone. Attention"),
        (TokenFeatures({"b": tokens(1)}), "auto", "'b' has one token per row, such as CLS alone"),
    ],
)
def test_one_token_a_row_may_be_put_side_by_side(X, streams, told):
    found = refused(cross(streams=streams).fit, X, y)
    assert re.search(told, found)
    assert found.endswith("Give patch or word tokens, or set fusion='concat'.")
    assert cross(streams=streams, fusion="concat").fit(X, y).predict(X).shape == y.shape


def test_the_container_of_the_fit_is_asked_for():
    features = TokenFeatures({"image": tokens(), "text": tokens(2)})
    of_tokens, of_table = cross().fit(features, y), cross().fit(table(), y)
    told = refused(of_tokens.predict, table())
    there = "TokenFeatures with the streams ['image', 'text']"
    assert told == f"X is a table, but CrossModalMoEClassifier was fitted on {there}. Give such."
    told = refused(of_table.predict, features)
    assert told.startswith("X is TokenFeatures, but") and "a table of 4 columns. Give such." in told


def test_streams_that_the_fit_did_not_know_are_left_at_home():
    clf = cross().fit(TokenFeatures({"image": tokens(), "text": tokens(2)}), y)
    more = TokenFeatures({"sound": tokens(), "text": tokens(2)})
    told = refused(clf.predict, more)
    assert told.endswith("fitted on ['image', 'text']. Pick with features.select(['text']).")
    assert clf.predict(more.select(["text"])).shape == y.shape
    # unless some were asked for: then there may be others
    clf = cross(streams=["image", "text"]).fit(more.join(TokenFeatures({"image": tokens()})), y)
    assert np.array_equal(clf.predict_proba(more), clf.predict_proba(more.select("text")))
    clf = cross().fit(TokenFeatures({"image": tokens(), "text": tokens(2)}), y)
    other = TokenFeatures({"sound": tokens()})  # of which none can be picked
    assert refused(clf.predict, other).endswith("['image', 'text']. Give one of these.")


def test_streams_are_named_or_cut_by_what_x_is():
    features = TokenFeatures(dict.fromkeys("abc", tokens()))
    told = refused(cross().fit, features, y)
    assert told.endswith(
        "Got 3: ['a', 'b', 'c']. Name one or two of them in the parameter 'streams'."
    )
    cross(streams=["a", "c"]).fit(features, y)
    told = refused(cross(streams={"a": ([0, 1], 1)}).fit, features, y)
    assert told.endswith("Set streams='auto', or to a list of names.")
    told = refused(cross(streams=["a"]).fit, table(), y)
    assert told.endswith(
        "Write streams={'image': (columns, width)} to cut its columns into tokens."
    )
    cross(streams={"image": (slice(0, 4), 2)}).fit(table(), y)


@pytest.mark.parametrize(
    ("columns", "width", "told"),
    [
        (
            [0, 4],
            1,
            r"must be made of columns that X has \(0 to 3\)\. Got \{'a': \(\[0, 4\], 1\)\}",
        ),
        ([0, -5], 1, r"columns that X has \(0 to 3\)"),
        (["x0", "x1"], 1, r"columns that X has \(0 to 3\)"),
        (slice(4, 9), 1, "a slice or list of columns, with one at least"),
        ([], 1, r"columns that X has|with one at least"),
        (2, 1, "a slice or list of columns, with one at least"),
        (
            [0, 1, 2],
            2,
            r"'a': 3 column\(s\) cannot be cut .* width 2\. Give a multiple of the width",
        ),
    ],
)
def test_columns_that_cannot_be_tokens(columns, width, told):
    assert re.search(told, refused(cross(streams={"a": (columns, width)}).fit, table(), y))


def test_what_is_left_out_already_is_not_offered_again():
    blocks = {"a": [0], "b": [1], "c": [2, 3]}
    view = sparse(modalities=blocks).fit(table(), y).without("b")
    assert refused(view.without, "b").endswith("to leave out; there are ['a', 'c'].")


def test_variables_that_differ_are_filled_or_said():
    one, two = ([0.0], [[1.0]]), ([0.0], [[1.0, 2.0]])
    assert refused(pack_series, [one, two]).endswith("Got 1 and 2; give NaN for what a row lacks.")
    told = refused(pack_series, [one, two], n_variables=1)
    assert "same variables (n_variables=1)." in told and told.endswith("and say n_variables=2.")
    told = refused(pack_series, [one], n_variables=3)
    assert told.endswith("Got 1 and 3; give NaN for what a row lacks.")
    filled = ([0.0], [[1.0, np.nan]])
    assert pack_series([filled, two], n_variables=2).shape == (2, 5)
    told = refused(MultiTimeAttention().fit, [None, ([0.0], [[np.nan]])])
    assert "Say n_variables=, or give at least one row that has one." in told


def test_texts_that_are_cut_have_a_way_on_that_is_one(tmp_path):
    write_bert(tmp_path / "bert")
    long = " ".join(WORDS * 3)

    def warned(**settings):
        encoder = TextTokenEncoder(f"local-dir:{tmp_path / 'bert'}", cache_dir=None, **settings)
        with pytest.warns(SkmoecbmWarning) as told:
            encoder.fit_transform([long])
        return str(told[0].message)

    assert warned(max_length=8).endswith("Shorten them, or raise max_length.")
    most = "Shorten them, or take a backbone that reads more."
    assert warned().endswith(most)
    assert warned(max_length=20).endswith(most)  # no more than that can be asked for
    reader = TextTokenEncoder(f"local-dir:{tmp_path / 'bert'}", max_length=21)
    told = refused(reader.fit, [long])
    assert "at most 20" in told


def test_a_text_tower_that_sums_up_at_the_end_takes_no_shorter_texts():
    tokenizer = SimpleNamespace(tokenizer_mode="clips")
    network = SimpleNamespace(tokenizer=tokenizer)
    backbone = SimpleNamespace(_network=network, notice=None, lexicon=None, context_length=64)
    told = refused(TextTowerTokens, "hf-hub:org/sums", backbone, 8)
    assert "must be None for 'hf-hub:org/sums', whose last token sums the text up. Got 8" in told
    assert "at most 64" in refused(TextTowerTokens, "hf-hub:org/sums", backbone, 65)
