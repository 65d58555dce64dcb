"""Folders as people have them after unpacking what they downloaded, with tiny images."""

import zipfile

import numpy as np
from PIL import Image

CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value % 256).save(path)


def lesions(n=70, per_lesion=2):
    """Rows (image, lesion, code) of `n` images; every lesion has one code."""
    return [
        (f"ISIC_{k:07d}", f"HAM_{k // per_lesion:07d}", CODES[k // per_lesion % 7])
        for k in range(n)
    ]


def ham_table(path, rows, separator=",", quote=""):
    head = ["lesion_id", "image_id", "dx", "dx_type", "age"]
    lines = [head, *([lesion, name, code, "histo", "50.0"] for name, lesion, code in rows)]
    text = "\n".join(separator.join(f"{quote}{cell}{quote}" for cell in line) for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def kaggle_ham(root, rows):
    """kmader/skin-cancer-mnist-ham10000: the folders twice, and tables of pixels."""
    ham_table(root / "HAM10000_metadata.csv", rows)
    for k, (name, _, _) in enumerate(rows):
        part = "part_1" if k < len(rows) // 2 else "part_2"
        image(root / f"HAM10000_images_{part}" / f"{name}.jpg", k)
        image(root / f"ham10000_images_{part}" / f"{name}.jpg", k)
    (root / "hmnist_28_28_L.csv").write_text("pixel0000,label\n0,1\n")


def dataverse_ham(root, rows):
    """The Harvard Dataverse: a table in tabs whose name has no ending, masks beside."""
    ham_table(root / "HAM10000_metadata", rows, "\t", '"')
    for k, (name, _, _) in enumerate(rows):
        part = "part_1" if k < len(rows) // 2 else "part_2"
        image(root / f"HAM10000_images_{part}" / f"{name}.jpg", k)
        image(root / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png")


def isic_ham(root, rows, *, lesions_too=True):
    """ISIC 2018 task 3, with its test part, which is no part of HAM10000."""
    order = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")

    def truth(part, named):
        lines = [["image", *(code.upper() for code in order)]]
        lines += [[name, *(f"{float(code == one)}" for one in order)] for name, code in named]
        path = (
            root / f"ISIC2018_Task3_{part}_GroundTruth" / f"ISIC2018_Task3_{part}_GroundTruth.csv"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(",".join(line) for line in lines) + "\n")

    truth("Training", [(name, code) for name, _, code in rows])
    truth("Test", [("ISIC_0034524", "nv")])
    image(root / "ISIC2018_Task3_Test_Input" / "ISIC_0034524.jpg")
    for k, (name, _, _) in enumerate(rows):
        image(root / "ISIC2018_Task3_Training_Input" / f"{name}.jpg", k)
    if lesions_too:
        lines = ["image,lesion_id,diagnosis_confirm_type"]
        lines += [f"{name},{lesion},histopathology" for name, lesion, _ in reversed(rows)]
        path = root / "ISIC2018_Task3_Training_LesionGroupings.csv"
        path.write_text("\n".join(lines) + "\n")


def films(n=60, per_patient=3):
    """Rows (image, findings, patient) of ChestX-ray14."""
    findings = ("No Finding", "Mass|Edema", "Pleural_Thickening", "Hernia|Effusion|Mass")
    return [
        (f"{k // per_patient:08d}_{k % per_patient:03d}.png", findings[k % 4], k // per_patient)
        for k in range(n)
    ]


def nih(root, rows, n_test_patients=5, table="Data_Entry_2017.csv"):
    """NIH's archives unpacked, or Kaggle's: twelve folders, a table, two lists."""
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,View Position,"]
    lines += [f"{name},{found},0,{patient},58,PA," for name, found, patient in rows]
    root.mkdir(parents=True, exist_ok=True)
    (root / table).write_text("\n".join(lines) + "\n")
    for k, (name, _, _) in enumerate(rows):
        image(root / f"images_{k % 12 + 1:03d}" / "images" / name, k)
    parts = {"train_val_list.txt": [], "test_list.txt": []}
    for name, _, patient in rows:
        parts["test_list.txt" if patient < n_test_patients else "train_val_list.txt"].append(name)
    for name, images in parts.items():
        (root / name).write_text("\n".join(images) + "\n")


def medmnist(path, sizes=(12, 4, 8), shape=(28, 28), labels=None, seed=0):
    """An .npz file as MedMNIST's."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = labels(rng, n) if labels else rng.integers(0, 2, (n, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: a.astype(np.uint8) for name, a in arrays.items()})
    return arrays


def radiography(root, n=30):
    """COVID-19_Radiography_Dataset of Kaggle: images and masks in a folder per class."""
    for folder in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for k in range(1, n + 1):
            image(root / folder / "images" / f"{folder}-{k}.png", k)
            image(root / folder / "masks" / f"{folder}-{k}.png")


def qu_ex(root, n=8):
    """COVID-QU-Ex of Kaggle: each archive holds its folder twice over."""
    for part in ("Train", "Val", "Test"):
        for folder, stem in (("COVID-19", "covid_"), ("Non-COVID", "non_COVID "), ("Normal", "N")):
            base = root / "Lung Segmentation Data" / "Lung Segmentation Data" / part / folder
            for k in range(n):
                image(base / "images" / f"{stem}{part}{k}.png", k)
                image(base / "lung masks" / f"{stem}{part}{k}.png")
    inner = root / "Infection Segmentation Data" / "Infection Segmentation Data"
    image(inner / "Train" / "COVID-19" / "images" / "covid_Train0.png")


def xlsx(path, rows):
    """An Excel file of text, as spreadsheets write one: shared strings and gaps."""
    texts = sorted({cell for row in rows for cell in row if cell})
    place = {text: k for k, text in enumerate(texts)}
    ns = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    lines = []
    for r, row in enumerate(rows, 1):
        cells = [
            f'<c r="{chr(65 + k)}{r}" t="s"><v>{place[cell]}</v></c>'
            for k, cell in enumerate(row)
            if cell
        ]
        lines.append(f'<row r="{r}">{"".join(cells)}</row>')
    with zipfile.ZipFile(path, "w") as book:
        strings = "".join(f"<si><t>{text}</t></si>" for text in texts)
        book.writestr("xl/sharedStrings.xml", f"<sst {ns}>{strings}</sst>")
        sheet = f"<worksheet {ns}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        book.writestr("xl/worksheets/sheet1.xml", sheet)
