"""The tables of HAM10000 and of ISIC 2018 task 3, in whatever form."""

import os

from skmoecbm.datasets._tables import column_of, find_table, read_frame, tables_below
from skmoecbm.exceptions import InputError

__all__ = ["BY_HAND", "CLASSES", "TABLE", "ham_table", "isic_test_table"]

CLASSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
TABLE = "HAM10000_metadata"
BY_HAND = (
    "By hand: get HAM10000_images_part_1.zip, HAM10000_images_part_2.zip and HAM10000_metadata "
    "from https://doi.org/10.7910/DVN/DBW86T (or the same from Kaggle, "
    "kmader/skin-cancer-mnist-ham10000), unpack them into one folder and give it as `root`."
)
_COLUMNS = ("image_id", "dx", "lesion_id")
_TRUTH = ("image", *(code.upper() for code in CLASSES))


def ham_table(root):
    """Return a DataFrame with columns image_id (no ending), dx, lesion_id, and others.

    Raises
    ------
    InputError
        If there is no such table, it does not name the lesions, or an image twice.
    """
    # the table of ISIC's test part has the same columns, and may lie beside
    tables = [path for path in tables_below(root) if not _is_of(path, "test", "validation")]
    path = find_table(tables, _COLUMNS, known=(TABLE, "metadata"), name="HAM10000")
    truth = None if path else find_table(tables, _TRUTH, name="HAM10000")
    if path:
        frame = _renamed(read_frame(path, name="HAM10000"), _COLUMNS)
    elif truth:
        frame = _with_lesions(root, _one_column(truth), tables)
    else:
        raise InputError(
            f"The folder of HAM10000, {str(root)!r}, has no table with columns image_id, dx and "
            f"lesion_id (HAM10000_metadata). {BY_HAND}"
        )
    return _checked(frame)


def isic_test_table(root):
    """Return the same of the test images of ISIC 2018 task 3, which are no part of HAM10000.

    A lesion that is not named is told by its image.
    """
    tables = [path for path in tables_below(root) if _is_of(path, "test")]
    path = find_table(tables, _COLUMNS[:2], name="ISIC 2018")
    truth = None if path else find_table(tables, _TRUTH, name="ISIC 2018")
    if not (path or truth):
        raise InputError(
            "The split 'official' tests on the 1,512 test images of ISIC 2018 task 3, and "
            f"{str(root)!r} has no table ISIC2018_Task3_Test_GroundTruth.csv. Get it and the "
            "images (ISIC2018_Task3_Test_Input) from https://challenge.isic-archive.com/data, "
            "2018, or from https://doi.org/10.7910/DVN/DBW86T, and put them into the folder."
        )
    if path:
        frame = _renamed(read_frame(path, name="ISIC 2018"), _COLUMNS)
    else:
        frame = _one_column(truth)
    if "lesion_id" not in frame:
        frame["lesion_id"] = None
    frame["lesion_id"] = frame["lesion_id"].fillna(frame["image_id"])
    return _checked(frame)


def _is_of(path, *parts):
    return any(part in path.name.lower() for part in parts)


def _renamed(frame, names):
    """Return the frame with columns spelled as in `names`, where it has them."""
    found = {column_of(frame.columns, name): name for name in names}
    return frame.rename(columns={column: name for column, name in found.items() if column})


def _one_column(path):
    """Return ISIC's table, a column of 0 and 1 for each diagnosis, with dx in their place."""
    frame = _renamed(read_frame(path, name="ISIC 2018"), _TRUTH)
    codes = list(_TRUTH[1:])
    cells = frame[codes].to_numpy()
    if not ((cells == 1).sum(axis=1) == 1).all():
        row = int(((cells == 1).sum(axis=1) != 1).argmax())
        raise InputError(
            f"{str(path)!r} must have one 1 in each row. Row {row + 1}, {frame['image'][row]!r}, "
            "has not; get it anew."
        )
    frame["dx"] = [codes[k].lower() for k in cells.argmax(axis=1)]
    return frame.drop(columns=codes).rename(columns={"image": "image_id"})


def _with_lesions(root, frame, tables):
    """Return ISIC's training table with the lesions of the table that comes beside it."""
    path = find_table(tables, ["image", "lesion_id"], name="HAM10000")
    if path is None:
        raise InputError(
            f"The folder {str(root)!r} has the ground truth of ISIC 2018 task 3, but not "
            "ISIC2018_Task3_Training_LesionGroupings.csv. Without it images of one lesion would "
            "stand on both sides of a split: get it from https://challenge.isic-archive.com/data, "
            "2018, and put it into the folder."
        )
    known = _renamed(read_frame(path, name="HAM10000"), ["image", "lesion_id"])
    known = known.rename(columns={"image": "image_id", "diagnosis_confirm_type": "dx_type"})
    frame = frame.merge(known, on="image_id", how="left")
    without = frame["lesion_id"].isna()
    if without.any():
        raise InputError(
            f"{str(path)!r} does not name the lesion of {without.sum():,} images; the first is "
            f"{frame['image_id'][without].iloc[0]!r}. Get it anew."
        )
    return frame


def _checked(frame):
    frame["image_id"] = [os.path.splitext(str(name))[0] for name in frame["image_id"]]
    if frame["image_id"].duplicated().any():
        twice = frame["image_id"][frame["image_id"].duplicated()].iloc[0]
        raise InputError(f"The table of HAM10000 names the image {twice!r} twice. Get it anew.")
    if frame["lesion_id"].isna().any():
        image = frame["image_id"][frame["lesion_id"].isna()].iloc[0]
        raise InputError(
            f"The table of HAM10000 does not name the lesion of {image!r}. Get it anew, or leave "
            "such rows out of it."
        )
    return frame
