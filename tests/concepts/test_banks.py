"""Laws of the bundled banks."""

import re
from pathlib import Path

import numpy as np
import pytest

from skmoecbm.concepts import ConceptBank, lint_concepts, list_concepts, load_concepts

# data set -> its number of classes
SHIPPED = {
    "ham10000": 7,
    "covid_radiography": 4,
    "chestxray14": 14,
    "chexpert": 14,
    "pathmnist": 9,
    "retinamnist": 5,
}


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def test_the_named_data_sets_have_a_bank():
    assert set(list_concepts()) == {*SHIPPED, "lesions"}


@pytest.mark.parametrize("name", SHIPPED)
def test_each_class_has_its_concepts_in_plain_and_in_trained_words(name):
    bank = load_concepts(name)
    assert len(bank.classes) == SHIPPED[name]
    per_class = bank.incidence.sum(axis=0)
    assert per_class.min() >= 20
    assert per_class.max() <= 60
    for level in ("general", "specialist"):
        assert bank.where(level=level).incidence.sum(axis=0).min() >= 8
    assert {one.facet for one in bank.concepts} <= {facet.name for facet in bank.facets}
    assert all(concept.classes for concept in bank.concepts)


@pytest.mark.parametrize("name", [*SHIPPED, "lesions"])
def test_phrases_are_short_and_clean(name):
    bank = load_concepts(name)
    spoken = [p for concept in bank.concepts for p in (concept.text, *concept.phrases)]
    assert max(len(phrase.split()) for phrase in spoken) <= 12
    assert len({" ".join(words(phrase)) for phrase in spoken}) == len(spoken)
    report = lint_concepts(bank)
    assert not report.errors, str(report)
    vague = {report.texts[one.concept] for one in report if one.rule == "vague"}
    assert not vague, vague


def test_the_drawings_have_the_25_words_of_their_experts():
    """As many as were drawn: no 20 for a class, which only a bank of free text can have."""
    bank = load_concepts("lesions")
    assert len(bank.classes) == 7 and len(bank) == 25
    assert bank.incidence.sum(axis=0).min() >= 3
    assert len(bank.where(level="general")) == len(bank.where(level="specialist")) - 1 == 12
    assert all(concept.backbones for concept in bank.concepts)
    assert len(bank.provenance.references) >= 3
    assert bank.provenance.licence == "BSD-3-Clause" and "not for clinical use" in bank.description


@pytest.mark.parametrize("name", [*SHIPPED, "lesions"])
def test_no_phrase_holds_the_name_of_a_class(name):
    """By plain words, beside the linter's stems."""
    bank = load_concepts(name)
    names = {tuple(words(spelling)) for spelling in bank.class_synonyms}
    names = {part for part in names if not (len(part) == 1 and part[0].isdigit())}
    for concept in bank.concepts:
        for phrase in (concept.text, *concept.phrases):
            spoken = words(phrase)
            for part in names:
                runs = {tuple(spoken[i : i + len(part)]) for i in range(len(spoken))}
                assert part not in runs, (phrase, part)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_bank_says_where_it_comes_from(name):
    bank = load_concepts(name)
    assert bank.provenance.author
    assert bank.provenance.licence == "BSD-3-Clause"
    assert len(bank.provenance.references) >= 3
    assert "clinical" in bank.description
    assert 3 <= len(bank.templates) <= 8
    assert np.isin(bank.answers, [-1, 0, 1]).all()


def test_the_bank_of_ham10000_is_not_the_list_of_others(data_dir):
    own = {text.lower() for text in load_concepts("ham10000").texts}
    theirs = ConceptBank.from_labo(Path(data_dir, "concepts", "labo_ham10000_candidates.json"))
    shared = own & {text.lower() for text in theirs.texts}
    # plain words such as "black color" are nobody's
    assert len(shared) < 0.05 * len(own), shared


@pytest.mark.parametrize("name", ["retinamnist", "pathmnist"])
def test_integer_labels_find_their_class(name):
    bank = load_concepts(name)
    found = bank.match_labels(range(SHIPPED[name]))
    assert list(found.values()) == bank.class_keys
