"""Layouts of data sets that nobody may pass on, as small trees with tiny images."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dicom_files import dicom

CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    "Fracture,Support Devices"
).split(",")
MIMIC = sorted(CHEXPERT)


def image(path, value=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        path.write_bytes(dicom(np.full((4, 4), value, "u1")))
    else:
        Image.new("L", (4, 4), value % 256).save(path)


def label_cells(k):
    """Return the 14 cells of film `k`: 1.0, 0.0, -1.0 and empty in turn, shifted by k."""
    return [("1.0", "0.0", "-1.0", "")[(k + column) % 4] for column in range(14)]


def chexpert_rows(part, first, n):
    """Yield (path below the part's folder, cells) of two films of each of n patients."""
    for k in range(first, first + n):
        yield f"patient{k:05d}/study1/view1_frontal.jpg", ["Frontal", "AP" if k % 3 else "PA"], k
        yield f"patient{k:05d}/study1/view2_lateral.jpg", ["Lateral", ""], k


def chexpert(root, release="CheXpert-v1.0-small", n=12, *, batches=False, test=False):
    """Build train.csv and valid.csv with their films; `batches`: the newer download."""
    root = Path(root)
    head = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT])
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)" if batches else root / release
    for part, start, count in (("train", 1, n), ("valid", 60_001, 4)):
        lines = [head]
        for film, view, k in chexpert_rows(part, start, count):
            cells = label_cells(k)
            if part == "valid":
                cells = ["1.0" if cell == "1.0" else "0.0" for cell in cells]
            lines.append(",".join([f"{release}/{part}/{film}", "Female", "61", *view, *cells]))
            folder = first / part
            if batches and part == "train":
                folder = root / f"CheXpert-v1.0 batch {2 + k % 3} (train {1 + k % 3})"
            image(folder / film, k)
        first.mkdir(parents=True, exist_ok=True)
        (first / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if test:
        lines = [",".join(["Path", *CHEXPERT])]
        for film, _, k in chexpert_rows("test", 64_741, 3):
            lines.append(",".join([f"test/{film}", *("1.0" if k % 2 else "0.0" for _ in CHEXPERT)]))
            image(first / "test" / film, k)
        (first / "test_labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return first


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for infection

 COMPARISON:  None.

 FINDINGS:

 Film {k} shows no focal
 consolidation.

 IMPRESSION:

 No acute process in {k}.
"""


def mimic(root, n=12, *, ending=".jpg", packed=True, reports="beside", version="2.0.0"):
    """Build two studies of two films for each of n patients, and their tables."""
    root = Path(root)
    split, metadata, labels = [], [], []
    for k in range(n):
        subject = 10_000_032 + k * 1_000_003
        for study in (50_000_000 + 2 * k, 50_000_001 + 2 * k):
            place = f"files/p{str(subject)[:2]}/p{subject}/s{study}"
            part = ("train", "validate", "test")[0 if k < n - 4 else 1 + k % 2]
            for view in ("PA" if k % 2 else "AP", "LATERAL" if study % 2 else "LL"):
                film = f"{study:08x}-{view}"
                split.append(f"{film},{study},{subject},{part}")
                metadata.append(f"{film},{subject},{study},chest,{view},4,4,21800506")
                image(root / place / f"{film}{ending}", k)
            labels.append(",".join([str(subject), str(study), *label_cells(study)]))
            if reports:
                base = {"inside": root, "beside": root / "mimic-cxr-reports"}[reports]
                path = base / f"{place}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(REPORT.format(k=study), encoding="utf-8")
    tables = {
        "split": ["dicom_id,study_id,subject_id,split", *split],
        "metadata": [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,"
            "Columns,StudyDate",
            *metadata,
        ],
        "chexpert": [",".join(["subject_id", "study_id", *MIMIC]), *labels],
    }
    for name, lines in tables.items():
        content = ("\n".join(lines) + "\n").encode()
        path = root / f"mimic-cxr-{version}-{name}.csv"
        if packed:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return root


def xlsx(path, rows):
    """Write an Excel file of one sheet of text, as spreadsheets do: shared strings and numbers."""
    texts = sorted({cell for row in rows for cell in row if isinstance(cell, str)})
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    strings = "".join(f"<si><t>{text}</t></si>" for text in texts)
    cells = []
    for r, row in enumerate(rows, start=1):
        one = "".join(
            f'<c r="{chr(65 + c)}{r}" t="s"><v>{texts.index(cell)}</v></c>'
            if isinstance(cell, str)
            else f'<c r="{chr(65 + c)}{r}"><v>{cell}</v></c>'
            for c, cell in enumerate(row)
            if cell is not None
        )
        cells.append(f'<row r="{r}">{one}</row>')
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml",
            f"<worksheet {space}><sheetData>{''.join(cells)}</sheetData></worksheet>",
        )
