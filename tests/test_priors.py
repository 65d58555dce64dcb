"""Language priors: each against its definition, and as the zero-shot classifier it stands for."""

import json

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBank,
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertFeatures,
    GatedConceptBottleneckClassifier,
    answer_concepts,
)
from skmoecbm._priors import prior_direction
from skmoecbm.datasets import make_lesions
from skmoecbm.exceptions import InputError

KEYS = ["mel", "nv", "bkl"]


@pytest.fixture
def problem():
    """Three classes whose names, concepts and images lie in one space of six dimensions."""
    rng = np.random.default_rng(0)
    names = np.eye(3, 6) + 0.4 * rng.normal(size=(3, 6)) / np.sqrt(6)
    names[1] += 0.7 * names[0]  # nv resembles mel
    texts = names[np.arange(9) % 3] + 0.3 * rng.normal(size=(9, 6))
    y = np.array(KEYS)[rng.integers(3, size=150)]
    images = names[[KEYS.index(label) for label in y]] + 0.8 * rng.normal(size=(150, 6))
    incidence = np.eye(3, dtype=int)[np.arange(9) % 3]
    incidence[8, 0] = 1
    answers = np.where(incidence == 1, 1, rng.integers(-1, 1, size=(9, 3)))
    features = ExpertFeatures.from_embeddings(
        {"clip": (images, texts, [f"t{j}" for j in range(9)])},
        incidence=incidence,
        answers=answers,
        class_keys=KEYS,
        class_embeddings=names,
    )
    return features, y, {"names": names, "texts": texts, "incidence": incidence, "answers": answers}


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_definition(prior, parts, classes):
    """A0's direction, entry by entry."""
    columns = [KEYS.index(key) for key in classes]
    names, out = parts["names"], np.zeros((len(classes), 9))
    pairs = [cosine(names[a], names[b]) for a in columns for b in columns if a != b]
    usual = sum(pairs) / len(pairs)
    for row, own in enumerate(columns):
        near = [cosine(names[own], text) for text in parts["texts"]]
        for j in range(9):
            if prior == "class":
                out[row, j] = parts["incidence"][j, own]
            elif prior == "answers":
                out[row, j] = parts["answers"][j, own]
            elif prior == "class_name":
                out[row, j] = near[j] in sorted(near)[-round(9 / len(classes)) :]
            else:
                for other in columns:
                    if parts["incidence"][j, other]:
                        like = (cosine(names[own], names[other]) - usual) / (1 - usual)
                        like = 1.0 if own == other else min(max(like, 0.0), 1.0)
                        out[row, j] = max(out[row, j], like)
    return out


PRIORS = ("class", "class_name", "similarity", "answers")


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("classes", [["bkl", "mel", "nv"], ["mel", "nv"]])
def test_directions_equal_their_definitions(problem, prior, classes):
    features, _, parts = problem
    direction, used = prior_direction(None, prior, features.blocks[0], np.array(classes), 9)
    assert used == prior
    np.testing.assert_allclose(direction, by_definition(prior, parts, classes), atol=1e-6)


def test_similarity_lends_concepts_to_the_class_that_is_alike_alone(problem):
    features = problem[0]
    direction, _ = prior_direction(None, "similarity", features.blocks[0], np.array(KEYS), 9)
    written_for_mel_alone = 0
    mel, nv, bkl = direction[:, written_for_mel_alone]
    assert mel == 1
    assert nv > 0.1
    assert bkl == 0


@pytest.mark.parametrize("prior", PRIORS)
def test_with_no_weight_on_the_data_the_head_is_the_zero_shot_classifier(problem, prior):
    features, y, parts = problem
    clf = ConceptBottleneckClassifier(prior=prior, alpha=1e10, prior_strength=1.5).fit(features, y)
    D = np.asarray(features, dtype=np.float64)
    Z = (D - D.mean(0)) / D.std(0)
    direction = by_definition(prior, parts, clf.classes_)
    A0 = direction / np.abs(direction).sum(1, keepdims=True)
    A0 *= 1.5 / (Z @ A0.T).std()
    zero_shot = Z @ A0.T
    logits = clf.decision_function(features) - clf.intercept_
    np.testing.assert_allclose(
        logits - logits.mean(1, keepdims=True),
        zero_shot - zero_shot.mean(1, keepdims=True),
        atol=1e-4,
    )


def test_each_expert_has_the_prior_of_its_own_text_space(problem):
    features, y, parts = problem
    rng = np.random.default_rng(5)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    names = parts["names"][[1, 2, 0]] @ rotation  # the second expert confuses the names
    both = ExpertFeatures.from_embeddings(
        {
            "clip": (features.blocks[0].embeddings, parts["texts"], [f"t{j}" for j in range(9)]),
            "bio": (rng.normal(size=(150, 6)), parts["texts"] @ rotation, list("abcdefghi")),
        },
        class_keys=KEYS,
        class_embeddings={"clip": parts["names"], "bio": names},
    )
    model = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(prior="class_name", alpha=1e8), gate="uniform"
    ).fit(both, y)
    assert model.prior_used_ == {"clip": "class_name", "bio": "class_name"}
    first, second = (np.sign(model.heads_[e].association_).round() for e in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("prior", "lacking", "remedy"),
    [
        ("class_name", "class embeddings", "names the model knows"),
        ("similarity", "class embeddings", "names the model knows"),
        ("answers", "answers", "from_knobo"),
    ],
)
def test_a_prior_that_the_features_cannot_give_is_refused(prior, lacking, remedy):
    features = ExpertFeatures.from_similarities(
        {"clip": (np.random.default_rng(0).normal(size=(20, 2)), ["a", "b"])},
        incidence=np.eye(2),
        class_keys=["mel", "nv"],
    )
    y = np.tile(["mel", "nv"], 10)
    with pytest.raises(InputError, match=rf"'clip' carries no {lacking}") as error:
        ConceptBottleneckClassifier(prior=prior).fit(features, y)
    assert remedy in str(error.value)
    with pytest.raises(InputError, match="the features carry no"):
        ConceptBottleneckClassifier(prior=prior).fit(np.asarray(features), y)
    with pytest.raises(InputError, match="'prior' parameter of ConceptBottleneckClassifier"):
        ConceptBottleneckClassifier(prior="nearest").fit(features, y)


def test_answers_travel_from_the_bank_to_the_head(tmp_path):
    bank = ConceptBank(
        name="b",
        classes=[{"key": "mel"}, {"key": "nv"}],
        concepts=[
            {"text": "globules", "classes": ["mel"], "against": ["nv"]},
            {"text": "streaks", "classes": ["nv"]},
        ],
    )
    lesions = make_lesions(40, random_state=0)
    encoder = ConceptEncoder("demo-structures", bank, cache_dir=None)
    features = encoder.fit_transform(lesions.images)
    np.testing.assert_array_equal(features.blocks[0].answers, [[1, -1], [0, 1]])
    np.testing.assert_array_equal(features[:3].blocks[0].answers, [[1, -1], [0, 1]])
    y = np.tile(["mel", "nv"], 20)
    clf = ConceptBottleneckClassifier(prior="answers", alpha=1e8).fit(features, y)
    # normalised rows (1, 0) for mel and (-1/2, 1/2) for nv; nv less mel is (-3/2, 1/2)
    ratio = clf.association_[0, 0] / clf.association_[0, 1]
    assert ratio == pytest.approx(-3.0, rel=1e-4)


def test_answers_must_be_answers():
    values = {"clip": (np.ones((4, 2)), ["a", "b"])}
    with pytest.raises(InputError, match="answers must be -1, 0 or 1"):
        ExpertFeatures.from_similarities(values, answers=[[2, 0], [0, 1]], class_keys=KEYS[:2])
    with pytest.raises(InputError, match="need class_keys"):
        ExpertFeatures.from_similarities(values, answers=[[1, 0], [0, 1]])


@pytest.mark.parametrize("prior", ["class", np.zeros((2, 2))], ids=["class", "array"])
def test_a_prior_of_zeros_is_recorded_as_none(prior):
    rng = np.random.default_rng(0)
    y = np.tile(["mel", "nv"], 20)
    values = {"clip": (rng.normal(size=(40, 2)) + (y == "mel")[:, None], ["a", "b"])}
    features = ExpertFeatures.from_similarities(
        values, incidence=[[0, 0, 1], [0, 0, 1]], class_keys=KEYS
    )
    clf = ConceptBottleneckClassifier(prior=prior, alpha=1.0).fit(features, y)
    none = ConceptBottleneckClassifier(prior=None, alpha=1.0).fit(features, y)
    assert clf.prior_used_ is None
    assert not clf.prior_association_.any()
    np.testing.assert_array_equal(clf.association_, none.association_)
    mixture = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(prior=prior, alpha=1.0), gate="uniform"
    ).fit(features, y)
    assert mixture.prior_used_ == {"clip": None}


@pytest.mark.parametrize(
    ("prior", "told"),
    [("answers", "answer is yes or no"), ("similarity", "concept was written for")],
)
def test_a_prior_asked_for_that_says_nothing_is_an_error(prior, told):
    rng = np.random.default_rng(0)
    features = ExpertFeatures.from_embeddings(
        {"clip": (rng.normal(size=(40, 4)), np.eye(4)[:2], ["a", "b"])},
        incidence=[[0, 0, 1], [0, 0, 1]],
        answers=[[0, 0, 1], [0, 0, -1]],
        class_keys=KEYS,
        class_embeddings=np.eye(4)[:3],
    )
    with pytest.raises(InputError, match=rf"says nothing here: .* no {told}"):
        ConceptBottleneckClassifier(prior=prior).fit(features, np.tile(["mel", "nv"], 20))


def test_a_language_model_becomes_a_prior_in_one_line():
    def client(prompt):
        globules = "yes" if "Class: mel" in prompt else "no"
        return json.dumps(
            {"answers": [{"number": 1, "answer": globules}, {"number": 2, "answer": "unknown"}]}
        )

    bank = ConceptBank.from_dict({"mel": ["globules", "streaks"], "nv": []})
    asked = answer_concepts(bank, domain="dermoscopic images", client=client).bank
    encoder = ConceptEncoder("demo-structures", asked, cache_dir=None)
    model = make_pipeline(encoder, ConceptBottleneckClassifier(prior="answers", alpha=1e8))
    model.fit(make_lesions(40, random_state=0).images, np.tile(["mel", "nv"], 20))
    nv_less_mel = model[-1].association_[0]
    assert model[-1].prior_used_ == "answers"
    assert nv_less_mel[0] < 0
    assert nv_less_mel[1] == pytest.approx(0, abs=1e-6)


def test_spellings_of_two_classes_are_told():
    values = {"clip": (np.ones((4, 2)), ["a", "b"])}
    for keys, synonyms in (
        (["mel", "nv"], {"NV": "mel"}),
        (["mel", "nv"], {"mole": "mel", "Mole ": "nv"}),
        (["mel", "MEL"], None),
    ):
        with pytest.raises(InputError, match=r"belongs to two classes, '.*' and '.*'"):
            ExpertFeatures.from_similarities(values, class_keys=keys, class_synonyms=synonyms)
    numbered = ExpertFeatures.from_similarities(
        values, class_keys=[0, 1], class_synonyms={"nevus": 1, "1.0": 1}
    )
    assert numbered.blocks[0].class_synonyms == {"0": "0", "1": "1", "nevus": "1", "1.0": "1"}


def test_who_is_told_to_learn_without_a_prior_is_told_how():
    labels = [f"unknown {n:02}" for n in range(14)]
    y = np.repeat(labels, 4)
    features = ExpertFeatures.from_embeddings(
        {"clip": (np.random.default_rng(0).normal(size=(56, 4)), np.eye(4)[:2], ["a", "b"])},
        incidence=np.eye(14)[:2],
        class_keys=[f"known {n:02}" for n in range(14)],
    )
    own = [("clip", ConceptBottleneckClassifier(), "clip")]
    for owner, remedy in (
        (ConceptBottleneckClassifier(), "or set prior=None to"),
        (
            GatedConceptBottleneckClassifier(gate="uniform"),
            "or set head=ConceptBottleneckClassifier(prior=None) to",
        ),
        (
            GatedConceptBottleneckClassifier(gate="uniform", experts=own),
            "or set prior=None in the head that experts= gives to 'clip' to",
        ),
    ):
        with pytest.raises(InputError) as caught:
            owner.fit(features, y)
        message = str(caught.value)
        assert remedy in message
        assert "'known 09' and 4 more]" in message and "'unknown 09' and 4 more]" in message
    # and the advice works
    head = ConceptBottleneckClassifier(prior=None, alpha=1.0)
    GatedConceptBottleneckClassifier(head=head, gate="uniform").fit(features, y)
