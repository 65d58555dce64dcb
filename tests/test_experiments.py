"""What the benchmarks compute with: draws, intervals, tables that grow, peers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from benchmarks._experiment_data import SPLITS, photographs
from benchmarks._experiment_report import combined, markdown, summary
from benchmarks._experiment_runs import GrowingTable, difference, draw, measured, probe
from benchmarks._peers import ConceptDirections
from benchmarks._peers_torch import LaBoHead
from benchmarks._published import published
from benchmarks._variants import COMPARISONS
from benchmarks.derm7pt import read as read_derm7pt
from benchmarks.derm7pt import zero_shot
from benchmarks.reproduce import DEFAULT
from skmoecbm.exceptions import InputError
from tests.datasets import trees


def three_classes(n=90, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.array(["a", "b", "c"]), n // 3)
    X = rng.normal(size=(n, 6))
    X[np.arange(n), np.repeat([0, 1, 2], n // 3)] += 2.0
    return X, y


def test_draws_have_so_many_rows_of_each_class_and_more_shots_hold_fewer():
    y = np.repeat([0, 1, 2], [50, 20, 5])
    pool = np.arange(0, 75, 1)
    few, many = draw(y, pool, "2", 3), draw(y, pool, "8", 3)
    assert np.bincount(y[few]).tolist() == [2, 2, 2]
    assert np.bincount(y[many]).tolist() == [8, 8, 5]
    assert set(few) < set(many)
    assert len(set(many)) == len(many)
    assert set(draw(y, pool, "2", 4)) != set(few)
    assert draw(y, pool, "all", 0) is pool


def test_interval_of_several_draws_is_that_of_t_and_rows_in_squares():
    values = [0.5, 0.6, 0.7]
    runs = pd.DataFrame(
        {"arm": "x", "score": values, "score_low": [v - 0.1 for v in values]}
        | {"score_high": [v + 0.3 for v in values]}
    )
    row = summary(runs, ["arm"], ["score"]).iloc[0]
    half = np.sqrt((stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)) ** 2 + 0.2**2)
    assert row["score_high"] - row["score"] == pytest.approx(half)
    assert row["score"] - row["score_low"] == pytest.approx(half)
    one = summary(runs[:1], ["arm"], ["score"]).iloc[0]
    assert (one["score_low"], one["score_high"]) == pytest.approx((0.4, 0.8))


def test_combined_difference_of_one_draw_is_normal_and_of_equal_draws_too():
    assert combined([0.1], [0.05]) == pytest.approx((0.1, 0.1 - 0.098, 0.1 + 0.098))
    assert combined([0.1, 0.1], [0.05, 0.05]) == pytest.approx((0.1, 0.1 - 0.098, 0.1 + 0.098))
    assert combined([0.0, 0.2], [0.0, 0.0])[2] > 1.0  # two draws say little


def test_growing_table_knows_its_rows_when_opened_again(tmp_path):
    path, columns = tmp_path / "deep" / "t.csv", ["shots", "arm", "score"]
    table = GrowingTable(path, columns, ["shots", "arm"])
    table.add([{"shots": "1", "arm": "a, b", "score": 0.123456}])
    again = GrowingTable(path, columns, ["shots", "arm"])
    assert {"shots": 1, "arm": "a, b"} in again
    assert {"shots": 2, "arm": "a, b"} not in again
    again.add([{"shots": "1", "arm": "a, b", "score": 9.0}, {"shots": "all", "arm": "x"}])
    found = again.read()
    assert found["shots"].tolist() == ["1", "all"]
    assert found["score"].tolist()[0] == 0.1235


def test_difference_is_paired():
    X, y = three_classes()
    model = LogisticRegression().fit(X, y)
    proba = model.predict_proba(X)
    first = measured(proba, model.classes_, y, np.arange(90), 50)
    again = measured(proba, model.classes_, y, np.arange(90), 50)
    found = difference(first, again, ["log_loss"])
    assert found == {"log_loss": 0.0, "log_loss_se": 0.0}


def test_probe_keeps_groups_whole_and_leaves_c_alone_without_folds():
    _X, y = three_classes()
    found = probe(y, np.arange(90) // 2)
    for train, test in found.cv:
        assert not set(train // 2) & set(test // 2)
    one_each = probe(np.array(["a", "b"]), np.arange(2))
    assert one_each[-1].C == 1.0


def test_labo_head_mixes_similarities_by_weights_that_sum_to_one():
    X, y = three_classes()
    head = LaBoHead(max_epochs=40, lr=0.05).fit(0.2 + 0.01 * X, y)
    np.testing.assert_allclose(head.association_.sum(axis=1), 1.0, atol=1e-6)
    assert (head.association_ >= 0).all()
    assert (head.predict(0.2 + 0.01 * X) == y).mean() > 0.8
    np.testing.assert_allclose(head.predict_proba(X / 100).sum(axis=1), 1.0)


def test_concept_directions_find_a_planted_one_among_unknown_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    values = (X[:, 2] > 0).astype(float)
    values[::3] = np.nan
    scores = ConceptDirections().fit(X, values[:, None]).transform(X)
    assert np.corrcoef(scores[:, 0], X[:, 2])[0, 1] > 0.95


def test_markdown_aligns_numbers_and_leaves_out_nan():
    text = markdown(pd.DataFrame({"a": ["x|y", "z"], "b": [0.5, np.nan]}))
    assert text.splitlines() == ["| a | b |", "|---|--:|", "| x\\|y | 0.500 |", "| z |  |"]


def test_published_numbers_are_shares_of_known_variants():
    table = published()
    assert table["published"].between(0, 1).all()
    assert not table.duplicated(["dataset", "shots", "variant"]).any()
    assert set(COMPARISONS) == {"separate concept spaces", "learned fusion"}


@pytest.mark.parametrize("name", DEFAULT)
def test_parts_are_disjoint_and_the_fair_split_shares_no_group(data_dir, name):
    photos = photographs(name, data_dir)
    assert len(photos.images) == len(photos.y) == len(photos.groups)
    for split in SPLITS[name]:
        train, test, note = photos.parts[split]
        assert not set(train) & set(test)
        assert note
    train, test, _ = photos.parts[SPLITS[name][0]]
    assert not set(photos.groups[train]) & set(photos.groups[test])
    assert set(photos.y[train]) == set(photos.y[test])


def test_a_folder_as_kaggle_gives_it_has_both_splits(tmp_path):
    rows = trees.lesions(70)
    trees.kaggle_ham(tmp_path / "ham10000", rows)
    for part, chosen in {"train": range(50), "val": range(50, 60), "test": range(60, 70)}.items():
        names = " ".join(rows[k][0] for k in chosen)
        (tmp_path / "ham10000" / f"class2images_{part}.p").write_text(names)
    photos = photographs("ham10000", tmp_path)
    assert photos.y.tolist() == [code for _, _, code in rows]
    train, test, note = photos.parts["lesion"]
    assert not set(photos.groups[train]) & set(photos.groups[test])
    assert note == "no lesion on both sides"  # its test part is there, and judges
    train, test, note = photos.parts["community"]
    assert train.tolist() == list(range(50)) and test.tolist() == list(range(60, 70))
    assert "0 of its 10 test images" in note


def test_the_folders_of_covid_qu_ex_are_its_parts(tmp_path):
    trees.qu_ex(tmp_path / "covid_radiography", n=4)
    photos = photographs("covid_radiography", tmp_path)
    train, test, _ = photos.parts[SPLITS["covid_radiography"][0]]
    assert all("/Train/" in photos.images[row] for row in train) and len(train) == 12
    assert all("/Test/" in photos.images[row] for row in test) and len(test) == 12
    trees.radiography(tmp_path / "b" / "covid_radiography")
    with pytest.raises(InputError, match="are of COVID-QU-Ex, and this is another edition"):
        photographs("covid_radiography", tmp_path / "b")


def test_zero_shot_is_the_softmax_of_cosines(data_dir):
    data = read_derm7pt(data_dir)
    assert len(set(data.names["phrases"])) == 49
    row = data.X[5].astype(float)
    cosines = [
        row @ text / np.linalg.norm(row) / np.linalg.norm(text)
        for text in data.class_texts.astype(float)
    ]
    nevus, melanoma = np.exp(100 * np.array(cosines))
    expected = melanoma / (melanoma + nevus)
    assert data.class_names == ["nevus", "melanoma"]
    assert zero_shot(data, np.array([5]))[0, 0] == pytest.approx(expected, rel=1e-4)
