"""The model card: valid for the Hub, true to the numbers, and inert whatever names are in it."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

import skmoecbm
from skmoecbm import (
    CardDetails,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
    ReportedMetrics,
    audit,
    calibrate_sets,
    edit,
    evaluate,
    load,
    save,
    tune_thresholds,
)
from skmoecbm._card_licences import hub_repository, licence_of, may_need_transformers
from skmoecbm._card_model import foreign_classes
from skmoecbm._model_writing import model_files
from skmoecbm.card import with_repository
from skmoecbm.datasets import make_lesions
from tests.brute_force import make_table
from tests.card_pattern import SECTIONS

EXPERTS = [("left", slice(0, 4)), ("right", slice(4, 9))]
HOSTILE = [
    "<script>alert(1)</script>",
    "a`b\n# heading\n---\nlicense: mit",
    "[x](http://evil.example) | ![y](//evil.example/z.png) &lt;b&gt;",
    "\u202e$x$ **bold** ~~gone~~ www.evil.example me@evil.example",
]


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def mixture(table):
    return GatedConceptBottleneckClassifier(experts=EXPERTS, random_state=0).fit(*table)


@pytest.fixture(scope="module")
def pipeline():
    data = make_lesions(70, random_state=0)
    union = ExpertUnion(
        [
            ("general", ConceptEncoder("demo-general", "lesions", cache_dir=None)),
            ("structures", ConceptEncoder("demo-structures", "lesions", cache_dir=None)),
        ]
    )
    model = GatedConceptBottleneckClassifier(gate="uniform", random_state=0)
    model = Pipeline([("experts", union), ("classifier", model)])
    return model.fit(list(data.images), np.asarray(data.target))


@pytest.fixture(scope="module")
def lesions():
    data = make_lesions(42, random_state=1)
    return list(data.images), np.asarray(data.target)


def card_of(model, **told):
    return model_files(model, **told)["README.md"].decode()


def tokens_of(text):
    """Return all Markdown tokens of a card's body, nested ones too."""
    body = text.split("\n---\n", 1)[1]
    found = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(body)
    return [t for token in found for t in (token, *(token.children or ()))]


def assert_inert(text, headings, n_pictures=0):
    """Nothing but the template's own Markdown is in a card."""
    tokens = tokens_of(text)
    kinds = [token.type for token in tokens]
    assert not {"html_block", "html_inline", "link_open", "hr", "s_open"} & set(kinds)
    assert kinds.count("image") == n_pictures
    found = [
        after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"
    ]
    assert found == headings
    # every row of a table has the cells of its head, so no name ends a cell
    for rows in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in rows.splitlines()}
        assert len(widths) == 1, rows
    # what some renderers make a link of, escaped or not, stands in code only
    outside = [token.content for token in tokens if token.type.startswith("text")]
    assert outside and not [t for t in outside if re.search(r"://|www\.|@|[a-z]\.[a-z]{2}", t)]
    assert not any(char in text for char in "\u202e\x00\r")


# --- the Hub ---------------------------------------------------------------------------------


@pytest.mark.parametrize("disjoint", [True, False, None])
def test_metrics_come_back_from_the_model_index_as_they_were_measured(mixture, table, disjoint):
    X, y = table
    groups = np.arange(len(y)) // 2
    found = evaluate(mixture, X, y, groups=groups, n_bootstrap=40, random_state=0)
    told = ReportedMetrics(found, dataset="HAM10000", split="test", group_disjoint=disjoint)
    text = card_of(mixture, metrics=told)
    card = ModelCard(text)
    assert card.data.library_name == "skmoecbm"
    assert {"skmoecbm", "concept-bottleneck"} <= set(card.data.tags)
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "A concept bottleneck model"
    assert {one.metric_type: one.metric_value for one in results} == {
        metric: found[metric].value for metric in found
    }
    for one in results:
        assert (one.metric_args["low"], one.metric_args["high"]) == found[one.metric_type][1:]
        assert (one.metric_args["confidence"], one.metric_args["n_bootstrap"]) == (0.95, 40)
        assert (one.dataset_name, one.dataset_split) == ("HAM10000", "test")
        wanted = "not stated" if disjoint is None else disjoint
        assert one.dataset_args == {"group_disjoint": wanted, "n": 120, "n_groups": 60}
    assert card.data.metrics == list(found)
    words = {True: "no lesion, patient or study of it", False: "It shares", None: "is not stated."}
    assert [w for w in words.values() if w in text] == [words[disjoint]]
    assert "Measured on 120 rows in 60 groups; in brackets 95 % intervals from 40" in text
    value, low, high = found["balanced_accuracy"]
    assert f"| Balanced accuracy | {value:.3f} [{low:.3f}, {high:.3f}] |" in text
    recall = found.per_class[1]["recall"]
    assert f"| `1` | 40 | {recall.value:.3f} [{recall.low:.3f}, {recall.high:.3f}] |" in text


def test_several_data_sets_stay_apart_even_under_one_name(mixture, table):
    one = evaluate(mixture, *table, n_bootstrap=0)
    half = evaluate(mixture, table[0][::2], table[1][::2], n_bootstrap=0)
    told = [
        ReportedMetrics(one, dataset="A b", split="test"),
        ReportedMetrics(half, dataset="a-b", split="test"),
        ReportedMetrics({"accuracy": 0.8}, dataset="third", dataset_id="org/third"),
    ]
    results = ModelCard(card_of(mixture, metrics=told)).data.eval_results
    seen = [(r.dataset_name, r.metric_value) for r in results if r.metric_type == "accuracy"]
    values = [one["accuracy"].value, half["accuracy"].value, 0.8]
    assert seen == list(zip(["A b", "a-b", "third"], values, strict=True))
    assert results[-1].dataset_type == "org/third"
    assert results[-1].dataset_args["source"] == "given by the author"


def test_numbers_by_hand_are_called_so_and_json_is_what_was_measured(mixture, table):
    text = card_of(mixture, metrics={"accuracy": 0.8, "my score": 2})
    assert "Numbers given by the author, without intervals." in text
    assert "| Accuracy | 0.800 |" in text and "| `my score` | 2.000 |" in text
    found = evaluate(mixture, *table, n_bootstrap=20, random_state=0)
    assert card_of(mixture, metrics=found.to_dict()) == card_of(mixture, metrics=found)
    assert "No metrics were given." in card_of(mixture)
    assert ModelCard(card_of(mixture)).data.eval_results is None


def test_front_matter_names_task_licence_data_and_real_backbones(pipeline, mixture):
    details = CardDetails(
        license="cc-by-nc-4.0", datasets=["org/skin"], language=["en", "de"], title="Skin: a 'test'"
    )
    data = ModelCard(card_of(pipeline, card=details)).data
    assert (data.license, data.datasets, data.language) == (
        "cc-by-nc-4.0",
        ["org/skin"],
        ["en", "de"],
    )
    assert data.pipeline_tag == "image-classification"
    assert data.base_model is None  # demonstration experts are not on the Hub
    assert "mixture-of-experts" in data.tags
    plain = ModelCard(card_of(mixture)).data
    assert (plain.pipeline_tag, plain.license) == (None, None)
    assert "No licence stated." in card_of(mixture)


def test_licences_are_told_only_where_they_are_stated():
    known = {
        "demo-general": "BSD-3-Clause, as this package",
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": "MIT",
        "ViT-B-32/laion2b_s34b_b79k": "MIT",
        "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "MIT",
    }
    assert {name: licence_of(name) for name in known} == known
    assert "nothing is stated for the weights" in licence_of("ViT-B-16/openai")
    for name in (
        "ViT-B-16-SigLIP/webli",
        "hf-hub:someone/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "local-dir:openai",
        "hf-hub:x/openai",
        "hf-hub:timm/openai",
        "nonsense",
    ):
        assert licence_of(name) == "not known: see the model's page"
    assert hub_repository("ViT-B-16/openai") == "timm/vit_base_patch16_clip_224.openai"
    assert hub_repository("hf-hub:org/name") == "org/name"
    assert hub_repository("hf-hub:../../etc") is None
    assert hub_repository("local-dir:a") is hub_repository("demo-general") is None


# --- what it says ----------------------------------------------------------------------------


def test_concepts_stand_beside_the_weights_of_the_association(mixture):
    text = card_of(mixture)
    for e, head in enumerate(mixture.heads_):
        section = text.split(f"### Expert `{head.expert_name_}`")[1].split("\n##")[0]
        weights = mixture.expert_scale_[e] * head.association_
        for k, label in enumerate(mixture.classes_):
            row = re.search(rf"^\| `{label}` \| (.*) \| (.*) \|$", section, flags=re.M)
            by_weight = sorted(zip(weights[k], head.concept_names_, strict=True))
            wanted = [w for w in by_weight[::-1] if w[0] >= 0.005][:5]
            wanted += [w for w in by_weight if w[0] <= -0.005][:3]
            shown = re.findall(r"`([^`]+)` ([+−]\d+\.\d\d)", " ".join(row.groups()))
            assert [name for name, _ in shown] == [name for _, name in wanted]
            for (_, value), (weight, _) in zip(shown, wanted, strict=True):
                assert float(value.replace("−", "-")) == pytest.approx(weight, abs=0.0051)


def test_of_two_classes_one_weight_speaks_for_both(table):
    X, y = table
    model = ConceptBottleneckClassifier(alpha=1.0).fit(X, np.array(["no", "yes"])[(y > 0) * 1])
    text = card_of(model)
    best = int(model.association_[0].argmax()), int(model.association_[0].argmin())
    yes = re.search(r"^\| `yes` \| `([^`]+)` \+", text, flags=re.M).group(1)
    no = re.search(r"^\| `no` \| `([^`]+)` \+", text, flags=re.M).group(1)
    assert [yes, no] == [model.concept_names_[j] for j in best]
    assert "| class | speaks for it |\n" in text


def test_shares_thresholds_sets_edits_and_codes_are_told(table):
    X, y = table
    model = GatedConceptBottleneckClassifier(experts=EXPERTS, random_state=0).fit(X[:90], y[:90])
    told = calibrate_sets(model, X[90:], y[90:])
    text = card_of(told, label_map={"Q": 2})
    assert "Sets of classes were calibrated on 30 rows (`lac`)" in text
    assert "## Edits" not in text
    assert "Codes in the author's table: `Q` is `2`." in text
    shares = re.findall(r"^\| `\d` \|(?: \d+ \|)? (\d+\.\d) % \|$", text, flags=re.M)
    assert [float(s) for s in shares] == [round(100 * (y[:90] == k).mean(), 1) for k in range(3)]
    text = card_of(edit(model, forbid="left__x0"))
    assert "## Edits" in text and "- `x0` of `left`: forbidden" in text

    many = np.stack([y == 0, y > 0, X[:, 0] > X[:, 0].mean()], axis=1).astype(int)
    labels = ConceptBottleneckClassifier(alpha=1.0).fit(X, many)
    labels = tune_thresholds(labels, X, many, cv=2)
    text = card_of(labels)
    limits = re.findall(r"^\| `\d` \|(?: \d+ \|)? \d+\.\d % \| (\d\.\d{3}) \|$", text, flags=re.M)
    assert limits == [f"{limit:.3f}" for limit in labels.thresholds_]
    assert "A row may have several of them, or none; a label is said from its threshold on." in text


def test_audit_is_told_in_words_without_its_tables(mixture, table):
    X, y = table
    groups = np.array([f"patient-{k}" for k in range(len(y))])
    found = audit(
        mixture,
        X[:60],
        y[:60],
        train=(X[30:], y[30:], groups[30:]),
        groups=groups[:60],
        checks=["leaks", "calibration"],
        n_bootstrap=20,
        random_state=0,
    )
    assert found["leaks"].status == "concern"
    told = {
        disjoint: ReportedMetrics({"accuracy": 0.8}, split=str(disjoint), group_disjoint=disjoint)
        for disjoint in (True, False, None)
    }
    text = card_of(mixture, audit=found, metrics=list(told.values()))
    for disjoint in told:  # an author's word does not stand beside what says otherwise
        section = text.split(f"split `{disjoint}`")[1].split("\n|")[0]
        assert ("**But the audit below found leaks.**" in section) is (disjoint is not False)
    assert "found leaks" not in card_of(mixture, metrics=told[True])
    assert "**Concerns: leaks" in text
    assert "On 60 rows." in text
    assert "patient-" in repr(found["leaks"].tables) and "patient-" not in text
    assert "No audit was given." in card_of(mixture)
    assert "Not checked" not in text


def test_checks_that_were_not_made_are_named_without_advice_to_the_author(mixture, table):
    some = {"checks": ["leaks", "ceiling", "calibration"], "n_bootstrap": 20, "random_state": 0}
    found = audit(mixture, *table, **some)
    assert [c.name for c in found.checks.values() if c.status == "not made"] == ["leaks", "ceiling"]
    text = card_of(mixture, audit=found)
    assert "Not checked: leaks, ceiling.\n" in text and "| calibration |" in text
    assert "train=" not in text and "not made" not in text
    text = card_of(mixture, audit=audit(mixture, *table, **some | {"checks": ["leaks"]}))
    assert "Not checked: leaks." in text and "No concern" not in text and "| check |" not in text


def test_what_installs_the_package_stands_in_the_card(pipeline, mixture, table):
    guide = (Path(__file__).parents[1] / "docs" / "installing.md").read_text("utf-8")
    for model in (pipeline, mixture):
        line = re.search(r"In a checkout of skmoecbm: `(.*)`\. Then", card_of(model)).group(1)
        assert line == "pip install ." and f"\n    {line}\n" in guide
    experts = [("left", slice(0, 4)), ("right", LogisticRegression(), slice(4, 9))]
    model = GatedConceptBottleneckClassifier(experts=experts, random_state=0).fit(*table)
    assert "`pip install '.[skops]'`" in card_of(model)
    encoder = pipeline.named_steps["experts"].experts_[0][1]
    before = encoder._fitted_source
    try:
        encoder._fitted_source = ("local-dir:my-clip", None)
        assert "`pip install '.[biomed]'`" in card_of(pipeline)
    finally:
        encoder._fitted_source = before


def test_text_towers_of_hugging_face_need_an_extra():
    needed = {
        "demo-general": False,
        "ViT-B-16/openai": False,
        "ViT-B-16-SigLIP/webli": True,
        "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K": False,
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": True,
        "hf-hub:org/name": True,
        "local-dir:folder": True,
    }
    assert {name: may_need_transformers(name) for name in needed} == needed


@pytest.mark.parametrize("repo, revision", [(None, None), ("me/model", None), ("me/model", "v1")])
def test_loading_names_the_place_and_pins_the_revision(mixture, repo, revision):
    details = CardDetails(pictures=False)
    text = card_of(mixture, repo_id=repo, revision=revision, card=details)
    block = re.search(r"```python\n(.*?)\n```", text, flags=re.S).group(1)
    compile(block, "card", "exec")
    if repo is None:
        assert 'skmoecbm.load("path/to/this/folder")' in block
    else:
        assert f'from_pretrained("me/model", revision="{revision or "main"}")' in block
        assert ("better a tag" in block) == (revision is None)


def test_the_lines_that_load_and_use_the_model_run(pipeline, lesions, tmp_path, monkeypatch):
    save(pipeline, tmp_path / "path" / "to" / "this" / "folder")
    text = (tmp_path / "path/to/this/folder/README.md").read_text("utf-8")
    Image.fromarray(np.asarray(lesions[0][0])).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)\n```", text, flags=re.S).group(1), names)
    plt.close("all")
    assert names["probabilities"].shape == (1, len(names["model"].classes_))
    encoder = card_of(pipeline.named_steps["experts"])
    assert 'model.transform(["photo.jpg"])' in encoder and "predict_proba" not in encoder


def test_a_card_of_a_folder_becomes_one_of_a_repository(pipeline, mixture):
    for model in (pipeline, mixture):
        for tag in (None, "v1"):
            text = with_repository(card_of(model), "me/model", tag)
            details = CardDetails(pictures=False)
            assert text == card_of(model, repo_id="me/model", revision=tag, card=details)
    by_hand = "# Mine\n\n    skmoecbm.load('here')\n"
    assert with_repository(by_hand, "me/model", "v1") == by_hand


@pytest.mark.parametrize(
    "gate, words",
    [
        ("uniform", "averaged over the experts"),
        ("constant", "the same for every row"),
        ("linear", "a gate says how far each expert is trusted for a row"),
    ],
)
def test_how_experts_are_mixed_is_told_as_it_is(table, gate, words):
    told = {"experts": EXPERTS, "gate": gate, "guard": False, "random_state": 0}
    model = GatedConceptBottleneckClassifier(**told).fit(*table)
    assert model.gate_state_.kind == gate
    text = card_of(model)
    assert words in text
    assert sum(one in text for one in ("averaged over", "same for every", "a gate says")) == 1


def test_card_is_the_same_again_and_after_loading(pipeline, lesions, tmp_path):
    told = {"metrics": evaluate(pipeline, *lesions, n_bootstrap=10, random_state=0)}
    save(pipeline, tmp_path / "one", **told)
    save(load(tmp_path / "one"), tmp_path / "two", **told)
    assert (tmp_path / "one" / "README.md").read_bytes() == (
        tmp_path / "two" / "README.md"
    ).read_bytes()


def test_a_card_holds_no_path_of_this_machine(pipeline, tmp_path):
    encoder = pipeline.named_steps["experts"].experts_[0][1]
    before, folder = encoder._fitted_source, tmp_path / "ward-seven" / "my-clip"
    encoder._fitted_source = (f"local-dir:{folder}", None)
    try:
        text = card_of(pipeline)
    finally:
        encoder._fitted_source = before
    assert "`local-dir:my-clip`" in text
    assert "ward-seven" not in text and str(tmp_path) not in text


def test_the_whole_card_is_what_its_pattern_says(pipeline, lesions):
    found = evaluate(pipeline, *lesions, n_bootstrap=20, random_state=0)
    told = ReportedMetrics(found, dataset="drawn lesions", split="test", group_disjoint=True)
    text = re.sub(r"\n{2,}", "\n\n", card_of(pipeline, metrics=told))
    for k in range(1, len(SECTIONS) + 1):
        assert re.match("".join(SECTIONS[:k]), text), SECTIONS[k - 1]
    assert re.fullmatch("".join(SECTIONS), text)


# --- hostile text ----------------------------------------------------------------------------

PLAIN = [
    "A concept bottleneck model",
    "What it is",
    "Intended use",
    "Out of scope",
    "Classes",
    "Concepts",
]
REST = ["Metrics", "Audit", "Limits", "How to load"]
LAST = ["Versions", "Citation"]


def test_hostile_names_and_words_stay_text(table):
    X, y = table
    names = np.array(HOSTILE[:3])
    experts = [(HOSTILE[2], slice(0, 4)), (HOSTILE[1], slice(4, 9))]
    frame_names = [f"{HOSTILE[j % 4]} {j}" for j in range(9)]
    model = GatedConceptBottleneckClassifier(experts=experts, random_state=0).fit(X, names[y])
    for head, columns in zip(model.heads_, model.expert_columns_, strict=True):
        head.concept_names_ = [frame_names[j] for j in columns]
    found = evaluate(model, X, names[y], n_bootstrap=0)
    told = ReportedMetrics(found, dataset=HOSTILE[2], split=HOSTILE[1])
    texts = "\n\n".join([*HOSTILE, "- a list", "1. one", "===", "> quote", "    code"])
    details = CardDetails(
        title=HOSTILE[1],
        description=texts,
        intended_use=texts,
        out_of_scope=texts,
        training_data=texts,
        limits=texts,
        authors=HOSTILE,
        citation="@misc{a,\n  title = {b},\n```\n# heading\n<b>}",
    )
    text = card_of(model, metrics=told, card=details, label_map={HOSTILE[0]: HOSTILE[1]})
    headings = [
        r"a\`b \# heading --- license: mit",
        *PLAIN[1:5],
        "Training data",
        "Concepts",
        "Expert `[x](http://evil.example) ¦ ![y](//evil.example/z.png) &lt;b&gt;`",
        "Expert `a'b # heading --- license: mit`",
        "Metrics",
        "`[x](http://evil.example) ¦ ![y](//evil.example/z.png) &lt;b&gt;`, "
        "split `a'b # heading --- license: mit`",
        *REST[1:],
        *LAST,
    ]
    assert_inert(text, headings)
    card = ModelCard(text)
    assert card.data.license is None
    assert "@misc{a,\n  title = {b},\n'''\n# heading\n<b>}\n```" in text
    assert card.data.eval_results[0].dataset_split == "a`b # heading --- license: mit"
    assert card.data.model_name == "a`b # heading --- license: mit"
    # and lists are the template's own: two of limits and sources
    assert "ordered_list_open" not in [t.type for t in tokens_of(text)]


@pytest.mark.parametrize("kind", ["head", "labels", "encoder", "union", "pipeline"])
def test_every_kind_of_model_has_a_card_that_parses(kind, pipeline, table):
    X, y = table
    many = np.stack([y == 0, y > 0], axis=1).astype(int)
    union = pipeline.named_steps["experts"]
    model = {
        "head": lambda: ConceptBottleneckClassifier(alpha=1.0).fit(X, y),
        "labels": lambda: ConceptBottleneckClassifier(alpha=1.0).fit(X, many),
        "encoder": lambda: union.experts_[0][1],
        "union": lambda: union,
        "pipeline": lambda: pipeline,
    }[kind]()
    headings = {
        "head": [*PLAIN, "Expert `features`", *REST, *LAST],
        "labels": [*PLAIN, "Expert `features`", *REST, *LAST],
        "encoder": [*PLAIN[:4], "Concepts", "Experts", *REST[2:], *LAST],
        "union": [*PLAIN[:4], "Concepts", "Experts", *REST[2:], *LAST],
        "pipeline": [
            *PLAIN,
            "Expert `general`",
            "Expert `structures`",
            "Experts",
            *REST,
            *LAST,
        ],
    }[kind]
    text = card_of(model)
    headings = [h.replace("features", getattr(model, "expert_name_", "")) for h in headings]
    last = model[-1] if kind == "pipeline" else model
    if "Classes" in headings and hasattr(last, "training_summary_"):
        headings.insert(headings.index("Classes") + 1, "Training data")
    assert_inert(text, headings)
    assert ModelCard(text).data.library_name == "skmoecbm"
    assert "**Not a medical device.**" in text
    assert "None" not in text and "Undefined" not in text and "\n\n\n\n" not in text
    files = model_files(model)
    assert files == model_files(model) and len(files) == 3


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CardDetails(license="MIT License"), "such as 'mit'"),
        (lambda: CardDetails(datasets="HAM10000 (Vienna)"), "others: training_data"),
        (lambda: CardDetails(language="English"), "a code such as 'en'"),
        (lambda: CardDetails(title=""), "a text of at most"),
        (lambda: CardDetails(authors=[1]), "a text of at most"),
        (lambda: CardDetails(pictures="yes"), "True, False or None"),
        (lambda: CardDetails(images=[0] * 17), "at most 16 images. Got 17"),
        (lambda: CardDetails(images="a.png"), "a list of images"),
        (lambda: ReportedMetrics(0.8), "what evaluate"),
        (lambda: ReportedMetrics({}), "what evaluate"),
        (lambda: ReportedMetrics({"accuracy": "high"}), "metric to finite number"),
        (lambda: ReportedMetrics({"accuracy": float("nan")}), "metric to finite number"),
        (lambda: ReportedMetrics({"metrics": {"a": 1}}), "not what Evaluation.to_dict"),
        (lambda: ReportedMetrics({"a": 1}, group_disjoint="yes"), "not stated"),
        (lambda: ReportedMetrics({"a": 1}, dataset_id="a b"), "org/name"),
    ],
)
def test_what_is_not_of_its_kind_is_told(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "told, message",
    [
        ({"metrics": 3}, "'metrics' parameter of save"),
        ({"metrics": [{"a": 1.0}, {"b": 1.0}]}, "names the same data twice"),
        ({"audit": "fine"}, "an Audit that audit() returned"),
        ({"card": {"title": "x"}}, "a CardDetails"),
    ],
)
def test_save_refuses_before_it_writes(mixture, told, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        save(mixture, tmp_path / "model", **told)
    assert not (tmp_path / "model").exists()


def test_recorded_training_is_told_in_counts(mixture):
    from skmoecbm.card import _training

    told = {
        "n_rows": 7029,
        "n_groups": 5514,
        "rows_per_expert": {"a": 7029, "b": 12},
        "n_folds": 5,
        "data_sha256": {"features": "0" * 64},
    }
    lines = ["7,029 rows in 5,514 groups", "rows that an expert saw: `a` 7,029, `b` 12"]
    assert _training(told)[:2] == lines
    assert _training(SimpleNamespace(model_dump=lambda mode: told)) == _training(told)
    assert not any("0000" in line for line in _training(told))
    assert _training(None) == []
    assert skmoecbm.CardDetails is CardDetails


def test_estimators_of_other_libraries_are_named():
    head = {"kind": "foreign head", "estimator": {"kind": "foreign", "class_name": "a.B"}}
    dumped = {"steps": [{"node": {"heads": [head, {"kind": "x", "class_name": "no"}]}}]}
    config = SimpleNamespace(model=SimpleNamespace(model_dump=lambda mode: dumped))
    assert foreign_classes(config) == ["a.B"]
