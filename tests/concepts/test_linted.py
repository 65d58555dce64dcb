"""The selector that leaves out what the linter finds."""

import numpy as np
import pytest
from sklearn.base import clone

from skmoecbm import ConceptEncoder
from skmoecbm.concepts import ConceptBank, LintedConcepts, SubmodularSelector, TopKConcepts
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError

BANK = ConceptBank.from_dict(
    {
        "mel": ["blue-white veil", "treated by surgery", "globules", "common in elderly men"],
        "nv": ["globules", "streaks", "no pain"],
    }
)
CLEAN = [0, 2, 4]  # blue-white veil, globules, streaks


def test_what_the_linter_finds_is_left_out():
    selector = LintedConcepts().fit(np.eye(6), None, np.eye(6), bank=BANK)
    assert selector.support_.tolist() == CLEAN
    assert not selector.needs_labels
    some = LintedConcepts("demographic").fit(None, None, None, bank=BANK)
    assert set(range(6)) - set(some.support_.tolist()) == {3}


def test_a_concept_goes_where_another_of_its_wordings_is_at_fault():
    bank = ConceptBank(
        name="b",
        classes=[{"key": "mel", "name": "melanoma"}],
        concepts=[
            {"text": "blue-white veil", "phrases": ["veil of early melanomas"]},
            {"text": "globules", "phrases": ["round clods", "Globules"]},
            {"text": "streaks", "phrases": ["radial lines"]},
        ],
    )
    selector = LintedConcepts().fit(None, None, None, bank=bank)
    assert selector.support_.tolist() == [1, 2]  # a wording given twice does not hurt
    assert LintedConcepts("negation").fit(None, None, None, bank=bank).support_.tolist() == [
        0,
        1,
        2,
    ]
    # clean() mends what a selector can only leave out
    assert LintedConcepts().fit(None, None, None, bank=bank.clean()).support_.tolist() == [0, 1, 2]


def test_another_selector_chooses_among_what_is_left():
    rng = np.random.default_rng(0)
    y = np.tile(["mel", "nv"], 30)
    X = rng.normal(size=(60, 6)) + 2.0 * (y == "mel")[:, None] * np.eye(6)[1]
    selector = LintedConcepts(then=TopKConcepts(1)).fit(X, y, np.eye(6), bank=BANK)
    alone = TopKConcepts(1).fit(X, y, np.eye(6)[CLEAN], bank=BANK.subset(CLEAN))
    assert selector.needs_labels
    assert selector.support_.tolist() == [CLEAN[i] for i in alone.support_]
    assert 1 not in selector.support_  # the best of all, but it speaks of surgery
    nested = clone(selector).set_params(then__k=2)
    assert len(nested.fit(X, y, np.eye(6), bank=BANK).support_) == 3


def test_an_encoder_needs_labels_only_where_the_selector_does():
    lesions = make_lesions(20, random_state=0)
    encoder = ConceptEncoder("demo-structures", "lesions", select=LintedConcepts(), cache_dir=None)
    assert len(encoder.fit(lesions.images).bank_) == 13
    encoder.set_params(select=LintedConcepts(then=SubmodularSelector(1)))
    with pytest.raises(InputError, match="needs labels"):
        encoder.fit(lesions.images)


def test_no_bank_and_no_concept_left_are_told():
    with pytest.raises(InputError, match="pass bank="):
        LintedConcepts().fit(np.eye(2), None, np.eye(2))
    bad = ConceptBank.from_dict({"mel": ["treated by surgery"]})
    with pytest.raises(InputError, match="leaves no concept"):
        LintedConcepts().fit(np.eye(1), None, np.eye(1), bank=bad)
