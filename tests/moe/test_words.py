"""What users of tables and tokens are told, in words of modalities and streams."""

import numpy as np
import pandas as pd
import pytest

from skmoecbm import ConceptBottleneckClassifier, predict_set
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe import CrossModalMoEClassifier, MiniBatches, SparseMoEClassifier

QUICK = MiniBatches(max_epochs=1)
rng = np.random.default_rng(0)
X = rng.standard_normal((60, 6))
y = rng.integers(0, 2, 60)
NAMES = ["image__0", "image__1", "image__2", "patient__age", "patient__sex", "patient__crp"]
FRAME = pd.DataFrame(X, columns=NAMES)


def sparse(**settings):
    return SparseMoEClassifier(n_experts=2, expert_hidden=4, training=QUICK, **settings)


def holed(column, rows):
    changed = FRAME.copy()
    changed.loc[rows, column] = np.nan
    return changed


def test_a_block_that_is_partly_missing_is_a_modality_with_a_way_on():
    told = (
        r"^Modality 'patient': 2 row\(s\) of the columns are partly NaN \(rows 3, 7\)\. Fill the "
        r"gaps, give those columns a modality of their own "
        r"\(modalities=\{'age': \['age'\], \.\.\.\}\), or set the whole block to NaN: it "
        r"then counts as missing\.$"
    )
    with pytest.raises(InputError, match=told):
        sparse().fit(holed("patient__age", [3, 7]), y)
    # the way on is one
    apart = {"image": "image", "age": ["patient__age"], "rest": ["patient__sex", "patient__crp"]}
    clf = sparse(modalities=apart).fit(holed("patient__age", [3, 7]), y)
    assert clf.training_summary_["rows_per_expert"]["age"] == 58


def test_a_table_that_is_not_cut_is_called_columns():
    with pytest.raises(InputError, match=r"^Modality 'columns': 1 row"):
        sparse().fit(np.where(np.arange(360).reshape(60, 6) == 9, np.nan, X), y)


def test_a_modality_that_no_row_has_is_told():
    told = "^Modality 'patient' has no training row .* Give it rows that have it, or leave it out"
    with pytest.raises(InputError, match=told):
        sparse().fit(holed(NAMES[3:], slice(None)), y)


def test_rows_of_nothing_are_told_in_the_words_of_the_classifier():
    clf = sparse().fit(FRAME, y)
    told = r"1 row\(s\) have no modality at all .* Give at least one modality to predict from\.$"
    with pytest.warns(SkmoecbmWarning, match=told):
        clf.predict(holed(NAMES, [4]))
    cross = CrossModalMoEClassifier(n_experts=2, expert_hidden=4, width=4, training=QUICK)
    told = r"1 row\(s\) have no stream at all .* Give tokens of at least one stream"
    with pytest.warns(SkmoecbmWarning, match=told):
        cross.fit(X, y).predict(holed(NAMES, [4]).to_numpy())
    with pytest.raises(InputError, match=r"^Stream 'columns': 1 row"):
        cross.predict(holed(NAMES[1], [4]).to_numpy())


@pytest.mark.filterwarnings("ignore:There are too few")
def test_rows_of_nothing_have_sets_of_all_classes():
    from skmoecbm import calibrate_sets

    clf = calibrate_sets(sparse().fit(FRAME, y), FRAME, y)
    with pytest.warns(SkmoecbmWarning, match="no modality at all .* sets hold all classes. Give"):
        assert predict_set(clf, holed(NAMES, [4]), 0.5)[4].all()


def test_labels_are_of_rows():
    with pytest.raises(InputError, match=r"at least two classes .* Add rows of another class\.$"):
        sparse().fit(FRAME, np.zeros(60))
    with pytest.raises(InputError, match=r"Give one label per row\.$"):
        sparse().fit(FRAME, y[:-1])
    with pytest.raises(InputError, match=r"Add images of another class\.$"):
        ConceptBottleneckClassifier().fit(X, np.zeros(60))


def test_columns_without_a_prefix_are_told_what_the_classifier_has():
    table = FRAME.rename(columns={"patient__age": "age"})
    told = r"named 'modality__column', or none\. Got \['age'\] .* say modalities="
    with pytest.raises(InputError, match=told) as error:
        sparse().fit(table, y)
    assert "gate_input" not in str(error.value)


@pytest.mark.parametrize(
    ("modalities", "told"),
    [
        ("all", r"must be 'auto', a dict from names to columns, or a list of \(name, columns\)"),
        ([("a", ConceptBottleneckClassifier(), [0])], "a dict from names to columns"),
        ({"a": np.mean}, "the columns a name, a number, a slice or a list"),
        ({"a": None}, "the columns a name, a number, a slice or a list"),
        ({"a": [[0, 1], [2]]}, "a flat list"),
        ({"a": slice("image__0", "image__2")}, "a slice is of numbers"),
        ({"a": [0, 1], "b": [1]}, "in two modalities, 'a' and 'b'. Give each column to one modali"),
        ({"a": []}, "^Modality 'a' has no column left"),
    ],
)
def test_modalities_that_cannot_be_are_told(modalities, told):
    with pytest.raises(InputError, match=told):
        sparse(modalities=modalities).fit(FRAME, y)


def test_a_number_of_numpy_is_a_column():
    assert sparse(modalities={"a": np.int64(2)}).fit(X, y).modality_names_ == ["a"]


@pytest.mark.parametrize("shape", [(60, 8, 8), (60, 8, 8, 3)])
@pytest.mark.parametrize("listed", [False, True])
def test_images_as_arrays_belong_behind_an_encoder(shape, listed):
    images = rng.random(shape)
    images = list(images) if listed else images
    told = r"as of images or tokens, and SparseMoEClassifier .* make_pipeline\(ExpertUnion\("
    with pytest.raises(InputError, match=told) as error:
        sparse().fit(images, y)
    assert str(shape[listed:]) in str(error.value)
    told = r"as of images or tokens, and CrossModalMoEClassifier takes tokens\. .*TokenUnion"
    with pytest.raises(InputError, match=told):
        CrossModalMoEClassifier().fit(images, y)


def test_records_belong_behind_encoders_of_tokens():
    dicts = [{"image": np.zeros((8, 8)), "text": "a report"}] * 60
    told = r"^X holds records, and CrossModal.*TokenUnion.* make TokenFeatures\(\{'image': tokens, "
    for records in (dicts, [tuple(row.values()) for row in dicts], pd.DataFrame(dicts)):
        with pytest.raises(InputError, match=told):
            CrossModalMoEClassifier().fit(records, y)
    with pytest.raises(InputError, match=r"X holds images .* CrossModal.* takes tokens"):
        CrossModalMoEClassifier().fit(["a.png"] * 60, y)
    with pytest.raises(InputError, match=r"X holds images .* SparseMoE.* takes their similarities"):
        sparse().fit(["a.png"] * 60, y)
    # rows as lists of numbers are a table all the same
    cross = CrossModalMoEClassifier(n_experts=2, width=4, expert_hidden=4, training=QUICK)
    cross.fit(X.tolist(), y).predict([tuple(row) for row in X.tolist()])
