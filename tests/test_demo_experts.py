import hashlib
import importlib.util
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer
from sklearn.metrics import roc_auc_score

import skmoecbm
from skmoecbm.backbones import load_backbone
from skmoecbm.concepts import load_concepts
from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import ATTRIBUTES, GENERAL, STRUCTURES
from skmoecbm.datasets._lesion_text import held_out_phrases, known_phrases, negate
from skmoecbm.features import ExpertFeatures

DEMO = Path(skmoecbm.__file__).parent / "_demo"
TOOL = Path(__file__).parent.parent / "tools" / "train_demo_experts.py"
NOTICE = "synthetic demonstration encoders, trained on drawings, not for clinical use"
# What the experts reached (means 0.92 and more), less the spread over draws of the drawings.
MEAN_BAR, WORST_BAR, HELD_OUT_BAR = 0.91, 0.76, 0.89
CONCEPTS = {"general": GENERAL, "structures": STRUCTURES}

pytestmark = pytest.mark.filterwarnings("ignore:.*demonstration encoders")


@pytest.fixture(scope="module")
def exam():
    return make_lesions(1200, mode="independent", random_state=777)


@pytest.fixture(scope="module")
def embedded(exam):
    from PIL import Image

    pictures = [Image.fromarray(image) for image in exam.images]
    return {
        expert: load_backbone(f"demo-{expert}").embed_images(pictures, batch_size=250)
        for expert in CONCEPTS
    }


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_demo_experts", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _auroc(exam, embedded, expert, vectors_of):
    backbone = load_backbone(f"demo-{expert}")
    scores = []
    for name in CONCEPTS[expert]:
        truth = exam.attributes[:, ATTRIBUTES.index(name)]
        rows = vectors_of(backbone, name)
        scores.append(np.mean([roc_auc_score(truth, embedded[expert] @ row) for row in rows]))
    return np.array(scores)


@pytest.mark.parametrize("expert", CONCEPTS)
def test_the_files_are_those_of_the_checksums(expert):
    folder = DEMO / expert
    listed = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    assert set(listed) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("expert", CONCEPTS)
def test_the_files_are_small_and_readable_by_all(expert):
    for path in (DEMO / expert).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, path
    assert (DEMO / expert / "open_clip_model.safetensors").stat().st_size < 2.5e6
    assert (DEMO / expert / "bpe.txt.gz").stat().st_size < 8000


@pytest.mark.parametrize("expert", CONCEPTS)
def test_the_notice_is_everywhere(expert):
    folder = DEMO / expert
    assert NOTICE.lower() in (folder / "README.md").read_text().lower()
    assert json.loads((folder / "lexicon.json").read_text())["notice"] == NOTICE
    assert json.loads((folder / "training_log.json").read_text())["notice"] == NOTICE
    assert load_backbone(f"demo-{expert}").notice == NOTICE


@pytest.mark.parametrize("expert", CONCEPTS)
def test_the_cut_vocabulary_spells_the_lexicon_as_the_full_one(expert):
    cut = SimpleTokenizer(str(DEMO / expert / "bpe.txt.gz"), context_length=24)
    full = SimpleTokenizer(context_length=24)
    assert cut.vocab_size == 1788
    for phrase in json.loads((DEMO / expert / "lexicon.json").read_text())["phrases"]:
        pieces = [[t.decoder[token] for token in t.encode(phrase)] for t in (cut, full)]
        assert pieces[0] == pieces[1]


def test_the_bank_is_the_lexicon():
    bank = load_concepts("lesions")
    assert bank.texts == list(ATTRIBUTES)
    for expert, names in CONCEPTS.items():
        lexicon = load_backbone(f"demo-{expert}").lexicon
        for concept in bank.concepts:
            own = concept.text in names
            assert concept.backbones == (f"demo-{expert}",) or not own
            for phrase in (concept.text, *concept.phrases, concept.negative):
                assert (phrase in lexicon) == own, phrase
    for concept in bank.concepts:
        assert set(concept.phrases) <= set(known_phrases(concept.text))
        assert len(concept.phrases) >= 3


def test_the_bank_understands_the_labels_of_ham10000_and_of_the_drawings():
    bank = load_concepts("lesions")
    drawn = make_lesions(1, random_state=0).target_names
    codes = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert list(bank.match_labels(codes).values()) == codes
    assert list(bank.match_labels(drawn).values()) == codes
    long = ["Basal cell carcinoma", "Melanoma", "melanocytic nevi", "Benign keratosis-like lesions"]
    assert list(bank.match_labels(long).values()) == ["bcc", "mel", "nv", "bkl"]


@pytest.mark.parametrize("expert", CONCEPTS)
def test_presence_of_each_concept_is_seen(exam, embedded, expert):
    scores = _auroc(exam, embedded, expert, lambda b, name: b.embed_texts([name]))
    assert scores.mean() >= MEAN_BAR
    assert scores.min() >= WORST_BAR


@pytest.mark.parametrize("expert", CONCEPTS)
def test_phrases_that_were_not_trained_mean_the_same(exam, embedded, expert):
    scores = _auroc(exam, embedded, expert, lambda b, name: b.embed_texts(held_out_phrases(name)))
    assert scores.mean() >= HELD_OUT_BAR


@pytest.mark.parametrize("expert", CONCEPTS)
def test_no_x_means_the_opposite_of_x(exam, embedded, expert):
    scores = _auroc(exam, embedded, expert, lambda b, name: b.embed_texts([negate(name)]))
    assert scores.mean() <= 1 - HELD_OUT_BAR


def test_two_experts_see_more_than_one():
    from PIL import Image

    from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier

    data = make_lesions(4200, random_state=778)
    pictures = [Image.fromarray(image) for image in data.images]
    experts = {}
    for expert, names in CONCEPTS.items():
        backbone = load_backbone(f"demo-{expert}")
        images = backbone.embed_images(pictures, batch_size=250)
        experts[expert] = (images, backbone.embed_texts(list(names)), list(names))
    features = ExpertFeatures.from_embeddings(experts)
    train, test = slice(None, 1200), slice(1200, None)

    def score(classifier, columns):
        classifier.fit(columns[train], data.target[train])
        return classifier.predict(columns[test]) == data.target[test]

    single = [
        score(ConceptBottleneckClassifier(random_state=0), features.select([expert]))
        for expert in CONCEPTS
    ]
    both = score(GatedConceptBottleneckClassifier(random_state=0), features)
    assert min(right.mean() for right in single) > 0.35  # chance is 0.14
    for right in single:  # better by more than three standard errors of the paired difference
        gain = both.astype(float) - right
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_a_short_training_learns(tool, tmp_path):
    tool.write_vocabulary(tmp_path / "bpe.txt.gz")
    assert (tmp_path / "bpe.txt.gz").read_bytes() == (DEMO / "general" / "bpe.txt.gz").read_bytes()
    tokenizer = tool.tokenizer_of(tmp_path)
    images, attributes = tool.draw_training_images(1280, 0.25, seed=0)
    tower, _ = tool.train_tower(images, attributes, epochs=3, seed=0, n_check=200)
    model, history = tool.train_expert(
        "structures", images, attributes, tokenizer, tower=tower, epochs=2, seed=0, n_check=200
    )
    columns = [ATTRIBUTES.index(name) for name in STRUCTURES]
    exam = make_lesions(600, mode="independent", random_state=1)
    before, after = (
        tool.presence_auroc(m, tokenizer, STRUCTURES, exam.images, exam.attributes[:, columns])
        for m in (tool.build_model(5), model)
    )
    assert abs(before["name"].mean() - 0.5) < 0.06
    assert after["name"].mean() > before["name"].mean() + 0.05
    assert len(history) == 2
    result = tool.write_expert(
        tmp_path, "structures", model, tokenizer, history, {"seed": 0}, n_exam=300
    )
    assert result["test"]["mean"]["name"] > 0.54
    again = load_backbone(f"local-dir:{tmp_path}")
    assert again.dim == 64
