"""mask_terms: what names a class goes, in whatever form; the rest stays, letter by letter."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from skmoecbm import ConceptBank, load_concepts, mask_terms
from skmoecbm.exceptions import InputError

COVID = "covid_radiography"
# Written by hand from the classes of the bank, without the code under test.
SURVIVORS = re.compile(
    r"covid|ncov|cov-?2|sars|corona|pneumoni|viral|normal|healthy|lung opac", re.IGNORECASE
)


@pytest.mark.parametrize(
    "name",
    [
        "COVID-19",
        "covid 19",
        "Covid19",
        "COVID_19",
        "COVID\u201119",  # a hyphen that does not break
        "COVID \u2013 19",
        "ＣＯＶＩＤ-19",
        "COVID 2019",
        "covid-2019",
        "COVID",
        "SARS-CoV-2",
        "SARS COV2",
        "SARS-CoV-2 infection",
        "coronavirus disease 2019",
        "Coronavirus",
        "viral pneumonia",
        "Viral Pneumonias",
        "viral-pneumonia",
        "viralpneumonia",
        "pneumonia",
        "pneumonic",
        "pneumoniae",
        "bronchopneumonia",
        "pneu-\nmonia",
        "pneu\u00admonia",
        "antiviral",
        "VP",
        "lung opacities",
        "Lung_Opacity",
        "lung's opacity",
        "COVID-19 pneumonia",
        "normal",
        "abnormality",
        "Healthy",
    ],
)
def test_a_name_in_any_form_is_one_mask_and_what_is_around_it_stays(name):
    text = f"Admitted with {name}, then (fever)."
    masked, counts = mask_terms([text], COVID, return_counts=True)
    assert masked == ["Admitted with ___, then (fever)."]
    assert counts.tolist() == [1]


@pytest.mark.parametrize(
    "text",
    [
        "the patient will recover; covered with a blanket",
        "opacities in both lungs, a ground-glass opacity",
        "healthcare, Dr Smith, a vp",  # of two initials capitals alone
        "low CD4 count",  # no coronavirus disease
        "SpO2 85%, 19 breaths, seen in 2019, grade 3",
        "n v, N V and n/v",
    ],
)
def test_words_that_only_look_alike_stay(text):
    names = ["COVID", "coronavirus disease 2019", "viral pneumonia", "lung opacity", "nv"]
    bank = {name: [f"concept of {name}"] for name in [*names, "healthy", "mild DR"]}
    bank["3"], bank["a"] = ["digits"], ["letters"]
    assert mask_terms([text], bank) == [text]


@pytest.mark.parametrize(
    ("name", "bank"),
    [
        ("naevi", "ham10000"),
        ("BCC", "ham10000"),
        ("b.c.c.", "ham10000"),
        ("BCCs", "ham10000"),
        ("Bowen's disease", "ham10000"),
        ("melanomas", "ham10000"),
        ("adenocarcinoma", "ham10000"),
        ("seborrhoeic keratoses", "ham10000"),
        ("hydropneumothoraces", "chestxray14"),
        ("oedematous", "chestxray14"),
        ("atelectatic", "chestxray14"),
        ("fibrotic", "chestxray14"),
        ("nodular", "chestxray14"),
        ("herniation", "chestxray14"),
        ("masses", "chestxray14"),
        ("consolidative", "chestxray14"),
        ("Pleural-Thickening", "chestxray14"),
        ("NPDR", "retinamnist"),
        ("DR", "retinamnist"),
    ],
)
def test_stems_and_first_letters_of_other_banks(name, bank):
    masked = mask_terms([f"Seen: {name} here"], bank)
    assert re.fullmatch(r"Seen: ___\.? here", masked[0]), masked


@pytest.mark.parametrize("bank", ["ham10000", COVID, "chestxray14", "chexpert", "retinamnist"])
def test_every_spelling_of_every_class_is_gone(bank):
    spellings = [
        spelling
        for one in load_concepts(bank).classes
        for spelling in (one.key, one.name, *one.synonyms)
        if not re.fullmatch(r"\W*\w?\W*", spelling)
    ]
    assert len(spellings) > 10
    texts = [form for s in spellings for form in (s, s.upper(), s.replace("-", " "))]
    assert {text.rstrip(".") for text in mask_terms(texts, bank)} == {"___"}


def test_short_words_of_longer_ones_stay():
    assert mask_terms(["massive", "massage"], "chestxray14") == ["massive", "massage"]
    # "vasc" and "mel" cut in two; millilitres are not the first letters of "mel-like"
    text = ["vas c, m el; 5 ML of 2 DL"]
    assert mask_terms(text, "ham10000") == text
    # a number behind a name is the rest of it only if a name has it
    assert mask_terms(["COVID 19, pneumonia 85 days"], COVID) == ["___, ___ 85 days"]


def test_the_longest_name_counts_and_neighbours_are_one_mask():
    text = "COVID-19 pneumonia / viral pneumonia; pneumonia. COVID"
    masked, counts = mask_terms([text], COVID, return_counts=True)
    assert masked == ["___; ___. ___"]
    assert counts.tolist() == [3]


def test_negation_does_not_save_a_word_and_the_mask_may_be_empty():
    text = ["No COVID-19, never had pneumonia."]
    assert mask_terms(text, COVID) == ["No ___, never had ___."]
    assert mask_terms(text, COVID, mask="") == ["No , never had ."]


def test_extra_terms_are_found_in_the_same_way():
    texts = ["RT-PCR, rt pcr and RTPCR in Wuhan; antiretrovirals"]
    assert mask_terms(texts, COVID, extra=["RT-PCR", "wuhan"]) == [
        "___, ___ and ___ in ___; ___",
    ]
    assert mask_terms(texts, {"nv": ["x"]}, extra="RT-PCR")[0].startswith("___, ___ and ___ in Wu")
    # no class, and yet something to mask
    assert mask_terms(
        ["a veil"], ConceptBank(name="b", concepts=[{"text": "x"}]), extra="veil"
    ) == ["a ___"]


def test_missing_texts_stay_as_they_are_and_a_series_keeps_its_index():
    texts = ["COVID", None, float("nan"), " ", "cough"]
    masked, counts = mask_terms(texts, COVID, return_counts=True)
    assert masked[:2] == ["___", None]
    assert np.isnan(masked[2])
    assert masked[3:] == [" ", "cough"]
    assert counts.tolist() == [1, 0, 0, 0, 0]
    series = pd.Series(texts, index=list("edcba"), name="report")
    masked = mask_terms(series, COVID)
    assert masked.index.tolist() == list("edcba")
    assert masked.name == "report"
    assert masked.isna().tolist() == [False, True, True, False, False]
    assert masked["e"] == "___"
    assert series["e"] == "COVID"
    assert mask_terms(np.array(["COVID", "cough"]), COVID) == ["___", "cough"]
    assert mask_terms(("COVID",), COVID) == ["___"]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_survives_and_masking_twice_changes_nothing(texts):
    once, counts = mask_terms(texts, COVID, return_counts=True)
    assert len(once) == len(texts)
    again, more = mask_terms(once, COVID, return_counts=True)
    assert again == once
    assert more.sum() == 0
    assert [a == b for a, b in zip(once, texts, strict=True)] == [
        n == 0 or t == o for n, t, o in zip(counts, texts, once, strict=True)
    ]


@given(st.text(alphabet="abcdefgh ,.-", max_size=40), st.text(alphabet="abcdefgh ,.", max_size=40))
def test_what_stands_around_a_name_is_kept_to_the_letter(before, after):
    text = f"{before}; COVID-19. {after}"
    assert mask_terms([text], {"COVID-19": ["x"]}) == [f"{before}; ___. {after}"]


def test_a_classifier_learns_nothing_from_masked_names():
    rng = np.random.default_rng(0)
    spellings = {
        0: ["COVID-19", "covid 19", "SARS-CoV2", "coronavirus", "Covid", "COVID19"],
        1: ["viral pneumonia", "Viral-Pneumonia", "pneumonic", "bronchopneumonia", "VP"],
    }
    words = ["fever", "cough", "basal", "patchy", "left", "effusion", "for two days", "hazy"]
    y = rng.integers(0, 2, 400)
    notes = [
        f"{' '.join(rng.choice(words, 5))}, {rng.choice(spellings[k])}. {rng.choice(words)}"
        for k in y
    ]
    reader = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), LogisticRegression()
    )
    before, after = (
        cross_val_score(reader, texts, y, cv=5, scoring="roc_auc").mean()
        for texts in (notes, mask_terms(notes, COVID))
    )
    assert before > 0.99
    assert abs(after - 0.5) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_terms("COVID", COVID), "A single text goes in a list"),
        (lambda: mask_terms(["a", 3], COVID), "text 1 must be a str"),
        (lambda: mask_terms(["a"], COVID, mask=None), "'mask' parameter of mask_terms"),
        (lambda: mask_terms(["a"], COVID, extra=["-"]), "'extra' parameter of mask_terms"),
        (lambda: mask_terms(["a"], COVID, extra=3), "'extra' parameter of mask_terms"),
        (lambda: mask_terms(["a"], ["red", "veil"]), "has no classes whose names could be masked"),
    ],
)
def test_what_cannot_be_done_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("bank", "survivors", "n_named"),
    [
        (COVID, SURVIVORS, 92),
        (
            "chestxray14",
            re.compile(
                r"effusion|edema|atelecta|pneumothora|nodul|consolidat|infiltrat|emphysem|fibro[st]i"
                r"|cardiomegal|hernia|pneumonia|thicken|\bmass(es)?\b",
                re.IGNORECASE,
            ),
            142,
        ),
    ],
    ids=[COVID, "chestxray14"],
)
def test_no_diagnosis_word_survives_in_real_notes(data_dir, bank, survivors, n_named):
    table = pd.read_csv(data_dir / "covid_chestxray_notes" / "metadata.csv")
    notes = table["clinical_notes"]
    masked, counts = mask_terms(notes, bank, return_counts=True)
    named = np.array([survivors.search(note) is not None for note in notes])
    assert named.sum() == n_named  # the notes do name it: there is something to mask
    assert [text for text in masked if survivors.search(text)] == []
    assert ((counts > 0) == named).all()  # and nothing is masked where nothing is named
