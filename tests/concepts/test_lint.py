"""lint_concepts: what each rule finds and lets be, cleaning, reports, rules of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lint import scores
from skmoecbm.backbones import load_backbone
from skmoecbm.concepts import ConceptBank, LintReport, as_bank, lint_concepts, list_concepts
from skmoecbm.concepts._lint_rules import bundled_rules
from skmoecbm.concepts._lint_words import Pattern, stem, words_of
from skmoecbm.exceptions import FormatError, InputError
from tests.backbone_fixtures import write_biomedclip, write_clip

SKIN = {
    "name": "skin",
    "classes": [
        {"key": "mel", "name": "melanoma", "synonyms": ["malignant melanoma"]},
        {"key": "nv", "name": "melanocytic nevus"},
        {"key": "bcc", "name": "basal cell carcinoma"},
        {"key": "ak", "name": "actinic keratosis"},
        {"key": "0", "name": "normal"},
    ],
}


def bank(*phrases, **fields):
    return ConceptBank(**SKIN, concepts=[{"text": text} for text in phrases], **fields)


def kinds_of(phrase, rule=None):
    """Return the kinds that find fault with one phrase, "rule/kind"."""
    found = lint_concepts(bank(phrase), rules=rule)
    return [f"{one.rule}/{one.kind}" for one in found]


FAULTS = {
    "leak/name": [
        "looks like Melanoma",
        "early melanomas",
        "melanomatous area",
        "melanocytic naevi",
        "actinic keratoses on top",
        "Basal-Cell Carcinoma",
        "MEL",
    ],
    "leak/abbreviation": ["AK", "like an mn", "a.k. mn-like"],
    "leak/part": ["flat nevi", "nevus", "a keratotic plug", "normal pattern"],
    "non-visual/treatment": [
        "cryotherapy",
        "excision",
        "may be surgically removed",
        "see a doctor",
    ],
    "non-visual/prognosis": ["recurs often", "spreads to nearby tissue", "may disappear"],
    "non-visual/symptom": ["itchy", "painless bump", "may bleed if scratched", "cough and fever"],
    "non-visual/touch": ["firm bump", "feels like sandpaper", "rubbery", "smooth to the touch"],
    "non-visual/risk": ["at higher risk", "linked to smoking", "long sun exposure"],
    "non-visual/cause": ["caused by a virus", "hereditary", "due to friction"],
    "non-visual/prevalence": ["very common", "seen in 80 % of cases", "rare"],
    "non-visual/time": ["grows slowly", "changed in size", "present at birth", "gets larger"],
    "non-visual/location": ["face, scalp, neck", "found on the trunk", "upper back or legs"],
    "non-visual/microscopic": ["made up of collagen", "cells that produce pigment"],
    "non-visual/verdict": ["benign", "cancerous growth", "mistaken for a pimple"],
    "demographic/skin-tone": [
        "fair skin",
        "dark-skinned people",
        "white skin",
        "blond hair",
        "people with lighter skin",
        "blue eyes",
    ],
    "demographic/skin-colored": ["flesh-colored bump", "skin-coloured papule", "flesh-toned"],
    "demographic/age": ["aged 50", "in older adults", "childhood", "over the age of 50"],
    "demographic/sex": ["women", "male pattern", "pregnant"],
    "demographic/ancestry": ["Caucasian", "of African descent"],
    "negation/word": ["no ulceration", "border isn't sharp", "without scale", "absence of hair"],
    "negation/prefix": ["non-blanching"],
    "vague/either": ["flat or slightly raised", "smooth or rough surface", "singly or in groups"],
    "vague/varies": ["color can vary", "any size"],
    "vague/nothing-named": ["size and shape", "generally good", "lesions"],
    "vague/cut-off": ["round and", "small bump on the"],
}
CLEAN = [
    "irregular border",
    "blue-white veil",
    "white streaks",
    "white",
    "brown or black",
    "dark brown",
    "nodule with a notch",
    "darker than the surrounding skin",
    "halo of lighter skin",
    "surrounded by a rim of light skin",
    "dark skin lesion",
    "dark hair across the lesion",
    "no larger than 6 mm",
    "hard exudates",
    "soft exudates around the disc",
    "soft edges",
    "red spots in modest number",
    "several scattered red spots",
    "pigment fading gradually at the edge",
    "finger-like ridges",
    "bone-white area",
    "rough, scaly texture",
    "crusted or ulcerated",
    "structureless area",
    "round and raised",
    "arborizing vessels",
]


@pytest.mark.parametrize(("kind", "phrase"), [(k, p) for k, ps in FAULTS.items() for p in ps])
def test_a_fault_is_found_by_its_kind(kind, phrase):
    assert kind in kinds_of(phrase)


@pytest.mark.parametrize("phrase", CLEAN)
def test_what_can_be_seen_is_let_be(phrase):
    assert kinds_of(phrase) == []


def test_words_are_whole_words():
    rules = ["demographic", "negation"]
    for phrase in ("damaged", "menisci", "nodular", "notched", "manic", "humane", "encaged"):
        assert kinds_of(phrase, rules) == []


def test_every_kind_of_words_has_examples_here():
    words = {
        f"{rule.name}/{kind.name}"
        for rule in bundled_rules().values()
        for kind in rule.kinds
        if kind.check == "words" or kind.check.startswith("class-")
    }
    assert words == set(FAULTS)


def test_numbers_and_letters_as_class_keys_leak_nothing():
    found = lint_concepts({"0": ["0 streaks", "up to 1 mm"], "1": ["1 dot"], "a": ["a dot"]})
    assert found.counts["leak"] == 0


def test_a_leak_names_the_class_and_a_part_of_a_name_only_warns():
    report = lint_concepts(bank("flat nevi", "melanocytic nevi"), rules="leak")
    assert [(f.kind, f.severity) for f in report] == [("part", "warning"), ("name", "error")]
    assert report.findings[1].why == (
        "'melanocytic nevi' is the name or a synonym of the class 'nv'"
    )


@pytest.mark.parametrize(
    ("template", "at_fault"),
    [
        ("a radiograph of {}", ["microscopic"]),
        ("an H&E histopathology slide of {}", []),
        ("a photo of {}", ["microscopic", "location"]),
    ],
)
def test_what_the_images_are_decides_what_they_can_show(template, at_fault):
    report = lint_concepts(bank("round cells", "chest wall", templates=[template]))
    assert [finding.kind for finding in report] == at_fault


def test_equal_words_are_one_error_and_the_shorter_stays():
    report = lint_concepts(["Blue white veil", "blue-white veil!", "veil"])
    (finding,) = report.findings
    assert (finding.rule, finding.phrase) == ("duplicate", "blue-white veil!")
    assert "'Blue white veil'" in finding.why


def test_small_words_and_forms_do_not_make_another_concept():
    pairs = [
        ("dark brown", "dark brown color"),
        ("round or oval", "oval or round in shape"),
        ("scaly surface", "scales of the surface"),
        ("gray centre", "grey center"),
    ]
    for one, other in pairs:
        report = lint_concepts([one, other], rules=["duplicate", "near-duplicate"])
        assert len(report) == 1, (one, other)
    for one, other in [
        ("red center white border", "white center red border"),
        ("raised", "slightly raised"),
        ("dark", "darker than the skin"),
    ]:
        assert not lint_concepts([one, other], rules=["duplicate", "near-duplicate"])


class Reader:
    """A text model of which a test says what it answers."""

    name = "told"
    context_length = 5

    def __init__(self, rows=None):
        self.rows = rows or {}
        self.seen = []

    def count_tokens(self, texts):
        self.seen += texts
        return [len(text.split()) for text in texts]

    def embed_texts(self, texts):
        return np.array([self.rows.get(text, (0, 0, 1)) for text in texts], dtype=np.float32)


def test_near_duplicates_are_found_by_the_embedding_too():
    rows = {"veil": (1, 0, 0), "hazy film": (0.96, 0.28, 0), "dots": (0, 1, 0)}
    report = lint_concepts(list(rows), backbone=Reader(rows), rules="near-duplicate")
    (finding,) = report.findings
    assert finding.phrase == "hazy film"
    assert finding.why == "told sees it as 'veil' (cosine 0.960)"
    rows["hazy film"] = (0.9, 0.436, 0)
    assert not lint_concepts(list(rows), backbone=Reader(rows), rules="near-duplicate")


def test_tokens_are_counted_with_the_longest_template():
    reader = Reader()
    one = bank("a b", "a b c", templates=["{}", "photo of {}"], modality_templates={"x": ["an {}"]})
    report = lint_concepts(one, backbone=reader, rules="too-long")
    assert not report
    assert "photo of a b c" in reader.seen and "an a b" in reader.seen
    one = bank("a b", "a b c d", templates=["{}", "photo of {}"])
    (finding,) = lint_concepts(one, backbone=reader, rules="too-long").findings
    assert finding.phrase == "a b c d" and finding.severity == "error"
    assert finding.why == "with its template it has 6 tokens, and told reads 5"


def test_real_tokenizers_count_their_own_tokens(tmp_path):
    write_clip(tmp_path / "clip")
    write_biomedclip(tmp_path / "bio")
    # contexts of 12 and 20; ends included. "erythematous" is several tokens of the first and one
    # unknown word of the second.
    phrases = [" ".join(["hair"] * n) for n in (10, 11, 18, 19)] + ["erythematous " * 8]
    found = {}
    for name in ("clip", "bio"):
        backbone = f"local-dir:{tmp_path / name}"
        report = lint_concepts(phrases, backbone=backbone, rules="too-long")
        found[name] = report.flagged("too-long").tolist()
        assert report.flagged().tolist() == found[name]
        assert load_backbone(backbone).count_tokens(phrases[:2]) == [12, 13]
    assert found == {"clip": [1, 2, 3, 4], "bio": [3]}


def test_shared_concepts_are_information():
    report = lint_concepts({"a": ["red", "blue"], "b": ["red"]})
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.phrase) == ("shared", "info", "red")
    assert "2 of 2 classes: a, b" in finding.why
    assert not report.errors and report.flagged().tolist() == []


def test_other_wordings_are_looked_at_and_negatives_are_not():
    one = ConceptBank(
        **SKIN,
        concepts=[{"text": "hair", "phrases": ["hairs", "no skin"], "negative": "no hair"}],
    )
    (finding,) = lint_concepts(one, rules="negation").findings
    assert (finding.phrase, finding.concept, finding.wording) == ("no skin", 0, 2)
    assert lint_concepts(one).flagged("negation").tolist() == []
    assert one.clean().concepts[0].phrases == ("hairs",)


# -- cleaning ---------------------------------------------------------------------------------

RULES = list(bundled_rules())
POOL = [
    *("red", "Red!", "red color", "round", "oval or round", "round or oval", "no hair", "veil"),
    *("melanoma", "flat nevi", "itchy", "itchy and no hair", "fair skin", "in women", "any size"),
    *("flat or raised", "cryotherapy", "blue-white veil", "Blue white veil", "grey dots"),
    *("gray dots", "gray, dots", "mel", "scaly", "scale"),
]


@st.composite
def banks(draw):
    texts = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=8, unique_by=str.lower))
    concepts = []
    for text in texts:
        keys = draw(st.lists(st.sampled_from(["mel", "nv"]), unique=True, max_size=2))
        phrases = draw(st.lists(st.sampled_from(POOL), max_size=2))
        concepts.append({"text": text, "classes": keys, "phrases": phrases})
    # one that no rule finds fault with, so that something is left
    concepts.append({"text": "dense network of lines"})
    return ConceptBank(**SKIN, concepts=concepts)


def told(report):
    return sorted((f.phrase, f.rule, f.kind, f.why) for f in report)


@given(banks(), st.lists(st.sampled_from(RULES), unique=True))
def test_cleaning_leaves_nothing_of_what_it_drops_and_again_changes_nothing(one, drop):
    cleaned = one.clean(drop)
    assert not [f for f in lint_concepts(cleaned) if f.rule in drop]
    assert cleaned.clean(drop) == cleaned
    assert set(cleaned.texts) <= set(one.texts) and cleaned.classes == one.classes
    assert not lint_concepts(one.clean()).errors
    if not [f for f in lint_concepts(one) if f.rule in drop]:
        assert cleaned == one


@given(banks(), st.randoms())
def test_the_order_of_the_bank_changes_no_finding(one, random):
    order = list(range(len(one)))
    random.shuffle(order)
    other = one.subset(order)
    assert told(lint_concepts(other)) == told(lint_concepts(one))
    classes = {c.text: set(c.classes) for c in one.clean().concepts}
    assert {c.text: set(c.classes) for c in other.clean().concepts} == classes


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_any_text_can_be_linted(texts):
    unique = list({text.strip().lower(): text for text in texts}.values())
    report = lint_concepts({"melanoma": unique})
    assert len(report) == sum(report.counts.values()) == len(report.to_frame())
    assert str(report)


def test_what_is_dropped_by_default():
    phrases = [
        "round",
        "itchy",
        "in women",
        "no hair",
        "melanomas",
        "flat nevi",
        "any size",
        "rounded",
    ]
    assert bank(*phrases).clean().texts == ["round", "flat nevi", "any size", "rounded"]
    assert bank(*phrases).clean("vague").texts == [p for p in phrases if p != "any size"]
    assert bank(*phrases).clean(keep=["negation", "non-visual/symptom"]).texts == [
        p for p in phrases if p not in ("in women", "melanomas")
    ]
    assert bank(*phrases).clean("non-visual/touch").texts == phrases
    assert bank("round").clean().texts == ["round"]


def test_of_equals_one_stays_with_the_classes_of_all():
    fields = {
        "classes": [{"key": k} for k in "abc"],
        "concepts": [
            {"text": "blue-white veil", "classes": ["a"], "against": ["c"]},
            {"text": "blue white, veil", "classes": ["b", "c"]},
            {"text": "blue white veil", "classes": ["b"]},
        ],
    }
    (concept,) = ConceptBank(name="x", **fields).clean().concepts
    assert concept.text == "blue white veil"
    assert set(concept.classes) == {"a", "b", "c"} and concept.against == ()


def test_a_report_with_a_backbone_decides_what_is_cut():
    one = bank("a b", "dotted dots in many rows here", "no hair")
    report = lint_concepts(one, backbone=Reader(), rules=["too-long"])
    assert one.clean(report=report).texts == ["a b", "no hair"]
    with pytest.raises(InputError, match="in this bank, 'skin'"):
        bank("other").clean(report=report)
    with pytest.raises(InputError, match="'report' must be"):
        one.clean(report=[])


def test_a_report_of_the_bank_as_it_was_is_refused():
    """The same texts, but what the findings point at has moved."""
    fields = {"classes": [{"key": "mel", "name": "melanoma"}], "name": "skin"}
    before = ConceptBank(concepts=[{"text": "veil", "phrases": ["no hair", "blue film"]}], **fields)
    after = ConceptBank(concepts=[{"text": "veil", "phrases": ["blue film", "no hair"]}], **fields)
    report = lint_concepts(before)
    assert report.texts == tuple(after.texts)
    with pytest.raises(InputError, match=r"as it is now.*lint the bank again"):
        after.clean(report=report)
    assert before.clean(report=report).concepts[0].phrases == ("blue film",)


def test_cleaning_refuses_what_would_leave_nothing_and_unknown_rules():
    with pytest.raises(InputError, match="no concept is left: all 2"):
        bank("itchy", "no hair").clean()
    with pytest.raises(InputError, match=r"'leaks' is no rule of this report; there are .*'leak'"):
        bank("itchy").clean("leaks")
    with pytest.raises(InputError, match="'x' is no rule"):
        bank("itchy").clean(keep=["x"])
    report = lint_concepts(bank("itchy"), rules="leak")
    with pytest.raises(InputError, match="'vague' is no rule"):
        report.flagged("vague")


# -- the report -------------------------------------------------------------------------------


def test_a_report_tells_itself():
    report = lint_concepts(bank("round", "itchy", "in women", "flat nevi"))
    assert (
        isinstance(report, LintReport)
        and len(report) == 3
        and list(report) == list(report.findings)
    )
    assert bool(report) and not lint_concepts(["round"])
    assert [f.phrase for f in report.errors] == ["itchy", "in women"]
    assert report.flagged().tolist() == [1, 2]
    assert report.flagged(["leak", "demographic"]).tolist() == [2, 3]
    assert report.flagged("non-visual/symptom").dtype.kind == "i"
    assert list(report.counts) == RULES
    assert {rule: n for rule, n in report.counts.items() if n} == {
        "demographic": 1,
        "leak": 1,
        "non-visual": 1,
    }
    text = str(report)
    assert text.endswith("skin: 4 concepts, 2 errors, 1 warning")
    for finding in report:
        assert finding.phrase in text and finding.why in text and finding.suggestion in text
    assert repr(report).startswith("LintReport('skin', 4 concepts, {'demographic': 1")
    frame = report.to_frame()
    assert frame["phrase"].tolist() == ["itchy", "in women", "flat nevi"]
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["concept"] == 1
    assert lint_concepts(["round"]).to_frame().columns.tolist() == frame.columns.tolist()
    with pytest.raises(AttributeError):
        report.findings = ()


def test_the_backbone_must_be_one():
    with pytest.raises(InputError, match=r"'backbone' parameter of lint_concepts.*without name"):
        lint_concepts(["round"], backbone=3)


# -- the rules --------------------------------------------------------------------------------

OWN = {
    "name": "house",
    "severity": "warning",
    "about": "Words of the house.",
    "kinds": [{"name": "word", "words": ["wicklow"], "why": "'{found}'", "suggestion": "Other."}],
}


def test_a_rule_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "house.json"
    path.write_text(json.dumps(OWN))
    report = lint_concepts(["Wicklow sign", "no hair"], rules=["negation", str(path)])
    assert report.counts == {"negation": 1, "house": 1}
    assert lint_concepts(["Wicklow sign"], rules=path).findings[0].why == "'wicklow'"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"severity": "bad"}, "severity"),
        ({"kinds": []}, "kinds is empty"),
        ({"words": 3}, "words is not a known field"),
        ({"kinds": [{**OWN["kinds"][0], "words": []}]}, "has no words"),
        ({"kinds": [{**OWN["kinds"][0], "why": "{class_key}"}]}, r"cannot fill \['class_key'\]"),
        ({"kinds": [{**OWN["kinds"][0], "threshold": 0.5}]}, "has a threshold"),
    ],
)
def test_a_bad_rule_is_refused(tmp_path, change, message):
    path = tmp_path / "house.json"
    path.write_text(json.dumps({**OWN, **change}))
    with pytest.raises(FormatError, match=message):
        lint_concepts(["round"], rules=path)


def test_unknown_rules_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no rule 'leaks'; there are .*'leak'"):
        lint_concepts(["round"], rules=["leaks"])
    with pytest.raises(InputError, match="'rules' parameter"):
        lint_concepts(["round"], rules=[])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FormatError, match="is not a rule"):
        lint_concepts(["round"], rules=tmp_path / "list.json")


def test_patterns():
    words = words_of("People with fair-skinned faces, not 12 others")
    assert words == ["people", "with", "fair", "skinned", "faces", "not", "12", "others"]
    for pattern, place in {
        "fair|light skin*": (2, 4),
        "people .. faces": (0, 5),
        "^ people": (0, 1),
        "others $": (7, 8),
        "#": (6, 7),
        "with _ skin*": (1, 4),
        "air": None,
        "people faces": None,
    }.items():
        assert Pattern([pattern]).first(words) == place, pattern
    assert Pattern(["fair skin*"]).masked(words)[1:5] == ["with", None, None, "faces"]
    assert Pattern([]).first(words) is None
    assert words_of("isn’t the patient's") == ["is", "not", "the", "patient"]


def test_stems_join_forms_and_keep_words_apart():
    for forms in (
        ("nevus", "nevi", "naevus", "naevi"),
        ("melanoma", "melanomas", "melanomata", "melanomatous"),
        ("keratosis", "keratoses", "keratotic"),
        ("oedema", "edema", "edematous"),
        ("atelectasis", "atelectases", "atelectatic"),
        ("infiltration", "infiltrate", "infiltrates", "infiltrating"),
        ("pneumonia", "pneumonias", "pneumonic"),
        ("cardiomegaly", "cardiomegalic"),
        ("nodule", "nodules", "nodular"),
    ):
        assert len({stem(form) for form in forms}) == 1, {f: stem(f) for f in forms}
    for one, other in [("mass", "massive"), ("severe", "several"), ("scar", "scale")]:
        assert stem(one) != stem(other)


def test_rules_have_no_word_twice():
    for rule in bundled_rules().values():
        for kind in rule.kinds:
            assert len(set(kind.words)) == len(kind.words), (rule.name, kind.name)


# -- on real lists ----------------------------------------------------------------------------


def test_bundled_banks_have_no_errors():
    for name in list_concepts():
        assert [str(f) for f in lint_concepts(name).errors] == []


def test_what_a_reading_of_labos_350_phrases_found(data_dir):
    report = lint_concepts(data_dir / "concepts" / "labo_ham10000_selected.json")
    strict = report.flagged(["non-visual", "demographic"])
    # at least the 36 of an earlier reading; all 116 were read and hold
    assert 36 <= len(strict) and len(strict) == pytest.approx(116, abs=4)
    cleaned = as_bank(data_dir / "concepts" / "labo_ham10000_selected.json").clean()
    assert not lint_concepts(cleaned).errors and len(cleaned) > 200


def test_precision_and_recall_on_the_labelled_phrases(data_dir):
    table, _ = scores(data_dir / "concepts")
    labelled = {rule: n for rule, (n, _, _) in table.items()}
    assert labelled == {
        "non-visual": 178,
        "demographic": 15,
        "negation": 26,
        "leak": 4,
        "vague": 24,
    }
    for rule, low in {"non-visual": 0.97, "demographic": 1, "negation": 1, "leak": 1}.items():
        n, found, both = table[rule]
        assert both / found >= low and both / n >= low, rule
    n, found, both = table["vague"]
    assert both / found >= 0.65 and both / n >= 0.75


def test_the_docs_print_what_the_command_prints_now(data_dir):
    table, _ = scores(data_dir / "concepts")
    text = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    for rule, (n, found, both) in table.items():
        if rule == "vague":  # its pattern changed after the one measurement, and the text says so
            assert f"`vague` finds {found} at a precision of {both / found:.2f}" in text
            continue
        told = rule + " (with parts of names)" * (rule == "leak")
        assert f"| {told} | {n} | {found} | {both / found:.2f} | {both / n:.2f} |" in text
    strict = lint_concepts(data_dir / "concepts" / "labo_ham10000_selected.json").flagged(
        ["non-visual", "demographic"]
    )
    assert f"{len(strict)} are not visual or demographic" in text


def test_false_alarms_on_the_shipped_banks_are_below_five_per_cent():
    """Every phrase of them was written to be seen: what the strict rules find is a false alarm."""
    n = found = 0
    for name in list_concepts():
        report = lint_concepts(name, rules=["non-visual", "demographic"])
        n += sum(1 + len(concept.phrases) for concept in report.bank.concepts)
        found += len({(one.concept, one.wording) for one in report})
    assert n > 1000 and found < 0.05 * n
