"""MIMIC-CXR in the layouts that people have."""

import gzip

import numpy as np
import pytest

from skmoecbm.datasets import load_mimic_cxr
from skmoecbm.datasets._report_sections import sections_of
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.images import load_image
from tests.datasets.local_trees import MIMIC, label_cells, mimic

pytest.importorskip("pydicom")


def test_the_jpegs_with_packed_tables_and_reports(tmp_path):
    mimic(tmp_path)
    data = load_mimic_cxr(tmp_path)
    assert len(data.images) == 24 and data.name == "mimic_cxr"
    assert data.images[0].endswith("files/p10/p10000032/s50000000/02faf080-AP.jpg")
    assert data.groups[0] == 10_000_032 and len(set(data.groups)) == 12
    assert data.reports[0] == (
        "Film 50000000 shows no focal consolidation.\n\nNo acute process in 50000000."
    )
    for path, report, study in zip(
        data.images, data.reports, data.metadata["study_id"], strict=True
    ):
        assert f"s{study}/" in path and f"Film {study}" in report
        assert "INDICATION" not in report and "cough" not in report
    wanted = {"1.0": 1, "0.0": 0, "": 0, "-1.0": 1}
    cells = np.array([label_cells(study) for study in data.metadata["study_id"]])
    for name, code in (("pulmonary edema", "Edema"), ("fracture", "Fracture")):
        column = [wanted[cell] for cell in cells[:, MIMIC.index(code)]]
        assert data.target[name].tolist() == column
    assert not set(MIMIC) & set(data.metadata.columns) and "Johnson" in data.DESCR


def test_dicom_films_and_plain_tables_of_another_release(tmp_path):
    root = tmp_path / "physionet.org/files/mimic-cxr-jpg/2.1.0"
    mimic(root, ending=".dcm", packed=False, version="2.1.0", reports="inside")
    data = load_mimic_cxr(tmp_path, reports=root)
    assert data.images[2].endswith(".dcm") and data.reports[2]
    assert np.asarray(load_image(data.images[2])).max() == 1  # of the second patient
    assert load_mimic_cxr(root).reports[0]  # "files" beside the tables


def test_the_official_split_and_one_by_patient(tmp_path):
    mimic(tmp_path)
    data = load_mimic_cxr(tmp_path, view="all")
    sizes = {part: len(data.part(part).images) for part in ("train", "val", "test")}
    assert sizes == {"train": 32, "val": 8, "test": 8}
    parts = data.splits["group"].values()
    patients = [set(data.groups[rows]) for rows in parts]
    assert sum(map(len, patients)) == 12
    assert load_mimic_cxr(tmp_path, split="group").splits.default == "group"


def test_views_reports_and_sections_are_chosen(tmp_path):
    mimic(tmp_path)
    assert set(load_mimic_cxr(tmp_path, view="lateral").metadata["ViewPosition"]) == {
        "LATERAL",
        "LL",
    }
    assert set(load_mimic_cxr(tmp_path, view="PA").metadata["ViewPosition"]) == {"PA"}
    assert load_mimic_cxr(tmp_path, reports=False).reports is None
    only = load_mimic_cxr(tmp_path, sections="impression").reports
    assert only[0] == "No acute process in 50000000."
    ignore = load_mimic_cxr(tmp_path, uncertain="ignore", labels=["Edema"])
    assert ignore.target.isna().any(axis=None)
    assert not ignore.part("train").target.isna().any(axis=None)
    (tmp_path / "mimic-cxr-reports").rename(tmp_path.parent / "mimic-cxr-reports")
    try:
        assert load_mimic_cxr(tmp_path).reports[0]  # beside the folder
    finally:
        (tmp_path.parent / "mimic-cxr-reports").rename(tmp_path / "elsewhere")
    assert load_mimic_cxr(tmp_path).reports is None
    assert load_mimic_cxr(tmp_path, reports=tmp_path / "elsewhere").reports[0]
    with pytest.raises(InputError, match="There are no reports of MIMIC-CXR"):
        load_mimic_cxr(tmp_path, reports=True)


def test_what_is_missing_is_told_with_the_count_and_the_first(tmp_path):
    mimic(tmp_path)
    first = "p10/p10000032/s50000001"
    (tmp_path / "files" / first / "02faf081-AP.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the 24 images .* the first is '02faf081-AP'"):
        load_mimic_cxr(tmp_path)
    with pytest.warns(SkmoecbmWarning, match="These rows are left out"):
        assert len(load_mimic_cxr(tmp_path, on_missing="warn").images) == 23
    (tmp_path / "mimic-cxr-reports/files/p10/p10000032/s50000000.txt").unlink()
    with pytest.warns(SkmoecbmWarning, match=r"1 of 23 reports .* count as empty; .*s50000000.txt"):
        data = load_mimic_cxr(tmp_path, on_missing="ignore")
    assert data.reports[0] == "" and data.reports[1]
    labels = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    lines = gzip.decompress(labels.read_bytes()).decode().splitlines()
    labels.write_bytes(gzip.compress("\n".join(lines[:-2]).encode()))
    data = load_mimic_cxr(tmp_path, on_missing="ignore", reports=False)
    assert data.n_without_labels == 4 and len(data.images) == 21
    labels.write_bytes(gzip.compress("\n".join([*lines, lines[-1]]).encode()))
    with pytest.raises(InputError, match="chexpert of MIMIC-CXR has study_id '50000023' twice"):
        load_mimic_cxr(tmp_path)
    labels.write_bytes(labels.read_bytes()[:50])
    with pytest.raises(InputError, match=r"cannot be read: .* Get it anew"):
        load_mimic_cxr(tmp_path)
    labels.unlink()
    with pytest.raises(InputError, match=r"no table mimic-cxr-2.0.0-chexpert.csv.gz. Get them"):
        load_mimic_cxr(tmp_path)
    with pytest.raises(InputError, match=r"no table mimic-cxr-2.0.0-split.csv.gz; it should hold"):
        load_mimic_cxr(tmp_path / "files")


@pytest.mark.parametrize("sections", [(), "indication", ["findings", "history"]])
def test_other_sections_are_refused(sections, tmp_path):
    with pytest.raises(InputError, match="'sections' parameter of load_mimic_cxr"):
        load_mimic_cxr(tmp_path, sections=sections)


@pytest.mark.parametrize(
    ("report", "wanted", "text"),
    [
        ("FINDINGS: a\n b\n\nIMPRESSION: c", ("findings", "impression"), "a b\n\nc"),
        ("FINDINGS: a\nIMPRESSION: c", ("impression", "findings"), "c\n\na"),
        ("FINDINGS: a. Note: b at 10:30.\nIMPRESSION:", ("findings",), "a. Note: b at 10:30."),
        ("  FINDINGS AND IMPRESSION:  all clear", ("findings", "impression"), "all clear"),
        ("HISTORY: mass\nCONCLUSION: c", ("impression",), "c"),
        ("HISTORY: mass known", ("findings", "impression"), ""),
        ("Comparison to before.\n\nLungs are\nclear.\n", ("findings",), "Lungs are clear."),
        ("FINDINGS: a\nFINDINGS: b", ("findings",), "a\n\nb"),
        ("", ("findings",), ""),
    ],
)
def test_sections_of_reports(report, wanted, text):
    assert sections_of(report, wanted) == text
