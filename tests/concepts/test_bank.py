"""ConceptBank: its contents, its files, its refusals."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skmoecbm.concepts import (
    Concept,
    ConceptBank,
    as_bank,
    list_concepts,
    load_concepts,
)
from skmoecbm.exceptions import FormatError, InputError

BANK = {
    "name": "skin",
    "description": "two classes",
    "classes": [
        {"key": "mel", "name": "Melanoma", "synonyms": ["malignant melanoma", "1"]},
        {"key": "nv", "synonyms": ["Nevus"]},
    ],
    "concepts": [
        {"text": "blue-white veil", "classes": ["mel"], "phrases": ["bluish film"]},
        {"text": "brown", "facet": "colour", "classes": ["mel", "nv"], "backbones": ["demo"]},
        {"text": "hair", "negative": "no hair"},
    ],
    "templates": ["{}", "a photo of {}"],
    "provenance": {"author": "A. Uthor", "licence": "CC0"},
}


def test_incidence_marks_the_classes_of_each_concept():
    bank = ConceptBank(**BANK)
    assert bank.texts == ["blue-white veil", "brown", "hair"]
    assert bank.class_keys == ["mel", "nv"]
    assert bank.incidence.dtype == bool
    np.testing.assert_array_equal(bank.incidence, [[1, 0], [1, 1], [0, 0]])
    assert ConceptBank(name="x", concepts=[{"text": "a"}]).incidence.shape == (1, 0)


def test_subset_keeps_order_and_classes():
    bank = ConceptBank(**BANK)
    part = bank.subset([2, 0])
    assert len(bank) == 3
    assert part.texts == ["hair", "blue-white veil"]
    assert part.class_keys == ["mel", "nv"]


def test_labels_match_keys_names_synonyms_in_any_case_and_integers():
    bank = ConceptBank(**BANK)
    labels = ["mel", "MELANOMA", " Malignant Melanoma", 1, np.int64(1), 1.0, "nevus", "bcc", None]
    matched = bank.match_labels(labels)
    assert [matched[one] for one in labels] == ["mel"] * 6 + ["nv", None, None]
    assert bank.class_synonyms == {
        "mel": "mel",
        "melanoma": "mel",
        "malignant melanoma": "mel",
        "1": "mel",
        "nv": "nv",
        "nevus": "nv",
    }


def test_integer_classes_of_a_dict_match_integer_labels():
    bank = ConceptBank.from_dict({0: ["flat"], 1: ["raised"]})
    assert bank.match_labels(np.array([1, 0])) == {1: "1", 0: "0"}


def test_float_classes_match_float_and_integer_labels():
    bank = ConceptBank.from_dict({0.0: ["a"], 1.0: ["b"]})
    assert bank.class_keys == ["0", "1"]
    assert list(bank.match_labels([0.0, 1.0]).values()) == ["0", "1"]
    assert list(bank.match_labels([0, 1]).values()) == ["0", "1"]


def test_phrase_of_two_classes_becomes_one_concept():
    bank = ConceptBank.from_dict({"a": ["red", "Round"], "b": ["round ", "blue", "blue"]})
    assert bank.texts == ["red", "Round", "blue"]
    np.testing.assert_array_equal(bank.incidence, [[1, 0], [1, 1], [0, 1]])


def test_bank_cannot_change_and_copies_cost_nothing():
    bank = ConceptBank(**BANK)
    with pytest.raises(ValueError, match="frozen"):
        bank.name = "other"
    assert copy.deepcopy(bank) is bank
    assert copy.copy(bank) == bank
    assert pickle.loads(pickle.dumps(bank)) == bank
    assert repr(bank) == "ConceptBank('skin', 3 concepts, 2 classes)"


def test_json_round_trip_is_byte_stable(tmp_path):
    bank = ConceptBank(**BANK)
    bank.to_json(tmp_path / "one.json")
    again = ConceptBank.from_json(tmp_path / "one.json")
    assert again == bank
    again.to_json(tmp_path / "two.json")
    first = (tmp_path / "one.json").read_bytes()
    assert first == (tmp_path / "two.json").read_bytes()
    assert first.endswith(b"}\n")
    assert b"\r" not in first
    assert json.loads(first)["format_version"] == 1


@given(
    st.dictionaries(
        st.text(min_size=1).filter(str.strip),
        st.lists(st.text(min_size=1).filter(str.strip), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_survives_the_json(tmp_path_factory, concepts):
    # a class may not be spelled like another, and a bank needs a concept
    folded = [key.strip().lower() for key in concepts]
    if len(set(folded)) < len(folded) or not any(concepts.values()):
        with pytest.raises(InputError):
            ConceptBank.from_dict(concepts)
        return
    try:
        "".join([*concepts, *(p for ps in concepts.values() for p in ps)]).encode()
    except UnicodeEncodeError:
        return
    bank = ConceptBank.from_dict(concepts)
    path = tmp_path_factory.mktemp("bank") / "bank.json"
    bank.to_json(path)
    assert ConceptBank.from_json(path) == bank


def test_as_bank_takes_every_form(tmp_path):
    bank = ConceptBank.from_dict({"a": ["red"], "b": ["blue"]}, name="mine")
    bank.to_json(tmp_path / "mine.json")
    (tmp_path / "plain.json").write_text('{"a": ["red"], "b": ["blue"]}')
    (tmp_path / "list.json").write_text('["red", "blue"]')
    assert as_bank(bank) is bank
    assert as_bank(tmp_path / "mine.json") == bank
    assert as_bank(str(tmp_path / "mine.json")) == bank
    assert as_bank({"a": ["red"], "b": ["blue"]}).concepts == bank.concepts
    assert as_bank(tmp_path / "plain.json").concepts == bank.concepts
    for given_list in (["red", "blue"], ("red", "blue"), tmp_path / "list.json"):
        assert as_bank(given_list).texts == ["red", "blue"]
        assert as_bank(given_list).class_keys == []


def test_class_called_concepts_is_a_class(tmp_path):
    (tmp_path / "odd.json").write_text('{"concepts": ["red"], "other": ["blue"]}')
    with pytest.raises(FormatError, match="other is not a known field"):
        as_bank(tmp_path / "odd.json")
    assert as_bank({"concepts": ["red"], "other": ["blue"]}).class_keys == ["concepts", "other"]


def changed(**changes):
    return {**BANK, **changes}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (changed(colour="red"), "colour is not a known field"),
        (changed(concepts=[{"text": "a", "colour": 1}]), r"concepts\[0\].colour is not a known"),
        (changed(concepts=[]), "concepts is empty"),
        (changed(concepts=[{"text": " "}]), r"concepts\[0\].text is empty"),
        (changed(concepts=[{"facet": "x"}]), r"concepts\[0\].text is missing"),
        (
            changed(concepts=[{"text": "a", "phrases": [""]}]),
            r"concepts\[0\].phrases\[0\] is empty",
        ),
        (changed(concepts=[{"text": "a", "classes": ["x"]}]), "'a' is written for class 'x'"),
        (changed(concepts=[{"text": "a"}, {"text": "A"}]), "'A' is there twice"),
        (changed(concepts=[{"text": "a"}, {"text": "a"}]), "'a' is there twice"),
        (
            changed(classes=[{"key": "a"}, {"key": "a"}], concepts=[{"text": "x"}]),
            "Class .a. is there twice",
        ),
        (changed(classes=[{"key": "a"}, {"key": "b", "synonyms": ["A"]}]), "spelling 'a' belongs"),
        (changed(templates=["a photo"]), "Template 'a photo' must hold '{}' once"),
        (changed(templates=[]), "templates is empty"),
        (changed(format_version=2), "format_version must be 1, got 2"),
        (changed(name=3), "name: .*got 3"),
    ],
)
def test_bad_fields_are_told_in_a_sentence(fields, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        ConceptBank(**fields)
    assert "pydantic" not in str(caught.value)
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(FormatError, match=message) as caught:
        ConceptBank.from_json(path)
    assert str(path) in str(caught.value)


def test_many_findings_are_cut():
    with pytest.raises(InputError, match="And 2 more"):
        ConceptBank(name="x", concepts=[{"text": ""}] * 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"a": ["x"], "a": ["y"]}', "key 'a' twice"),
        ("3", "not a bank"),
        ("{}", "not a bank"),
        ('{"a": "x"}', "must be a list of str"),
        ('{"a": [3]}', "empty phrase"),
    ],
)
def test_bad_files_are_told_in_a_sentence(content, message, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(FormatError, match=message):
        as_bank(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ("no-such-bank", "no bundled bank 'no-such-bank'; there are"),
        ("HAM1000", r"'retinamnist'\]. Did you mean 'ham10000'\?"),
        ("no/such.json", "cannot be read"),
        (3, "Got int instead"),
        (None, "Got NoneType instead"),
        ({}, "non-empty dict"),
        ([], "non-empty list"),
        (["red", ""], "Got ''"),
        ({"a": "red"}, "must be a list of str"),
        ({"a": ["red", " "]}, "empty phrase"),
        ({"a": []}, "concepts is empty"),
    ],
)
def test_bad_concepts_are_told_in_a_sentence(concepts, message):
    with pytest.raises(InputError, match=message):
        as_bank(concepts)


def test_bundled_banks_load():
    for name in list_concepts():
        bank = load_concepts(name)
        assert bank.name == name
        assert all(bank.incidence.any(axis=0))
    with pytest.raises(InputError, match="no bundled bank"):
        load_concepts("../banks/lesions")


def test_concept_defaults():
    concept = Concept(text=" red ")
    assert concept.text == "red"
    assert (concept.classes, concept.phrases, concept.backbones) == ((), (), None)


def test_labo_files_on_disk(data_dir):
    path = data_dir / "concepts" / "labo_ham10000_candidates.json"
    raw = json.loads(path.read_text())
    bank = ConceptBank.from_labo(path)
    assert bank.class_keys == list(raw)
    for key, column in zip(raw, bank.incidence.T, strict=True):
        assert column.sum() == len({phrase.strip().lower() for phrase in raw[key]} - {""})
    selected = ConceptBank.from_labo(data_dir / "concepts" / "labo_ham10000_selected.json")
    assert len(selected) > 200
    with pytest.raises(FormatError, match="not a LaBo file"):
        ConceptBank.from_labo(data_dir / "concepts" / "knobo_skin_class2concept2answer.json")


def test_a_slip_of_the_pen_is_answered_with_the_near_word():
    bank = load_concepts("ham10000")
    for asked, told in (
        ({"classes": "mle"}, r"no class 'mle'; .* Did you mean 'mel'\?"),
        ({"facet": "colour"}, r"no facet 'colour'; .* Did you mean 'color'\?"),
    ):
        with pytest.raises(InputError, match=told):
            bank.where(**asked)
    with pytest.raises(InputError, match=r"Did you mean 'dermoscopy'\?"):
        bank.templates_for("dermsocopy")
    with pytest.raises(InputError, match=r"\.$") as error:  # nothing near, nothing guessed
        bank.where(classes="pneumonia")
    assert "Did you mean" not in str(error.value)


def test_a_class_that_is_there_twice_is_told_as_such():
    classes = [{"key": "mel"}, {"key": "mel"}]
    with pytest.raises(InputError, match="Class 'mel' is there twice"):
        ConceptBank(name="x", classes=classes, concepts=[{"text": "veil"}])
    with pytest.raises(InputError, match="belongs to two classes, 'mel' and 'MEL'"):
        ConceptBank(name="x", classes=[{"key": "mel"}, {"key": "MEL"}], concepts=[{"text": "v"}])
