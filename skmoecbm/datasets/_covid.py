"""COVID-19 Radiography Database and COVID-QU-Ex: chest X-rays sorted into folders by class."""

import os
from pathlib import Path

import numpy as np

from skmoecbm._folder import IMAGE_SUFFIXES
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._files import existing_root, walk
from skmoecbm.datasets._folders import data_folder
from skmoecbm.datasets._splits import group_split, split_of_column
from skmoecbm.datasets._xlsx import read_xlsx
from skmoecbm.exceptions import DownloadError, InputError

__all__ = ["fetch_covid_radiography"]

# folder in lower case, without what is no letter -> class; the order is that of `target_names`
_RADIOGRAPHY = {
    "covid": "covid-19",
    "lungopacity": "lung opacity",
    "normal": "normal",
    "viralpneumonia": "viral pneumonia",
}
_QU_EX = {"covid": "covid-19", "noncovid": "non-covid infection", "normal": "normal"}
_PARTS = ("train", "val", "test")
_TRAP = (
    "The split {split!r} of the COVID-19 X-rays divides images: patients are not named, so films "
    "of one patient may be in two parts, and classes come from sources of their own. What is "
    "measured on it is too good. See DESCR."
)
_HOLDS = (
    "the folders COVID, Lung_Opacity, Normal and Viral Pneumonia of COVID-19_Radiography_Dataset, "
    "or 'Lung Segmentation Data' of COVID-QU-Ex"
)
_BY_HAND = (
    "Kaggle asks for a login, so get it by hand: tawsifurrahman/covid19-radiography-database or "
    "anasmohammedtahir/covidqu on https://www.kaggle.com/datasets. Unpack it and give the folder "
    "as `root`, or put it into {folder!r}."
)


def fetch_covid_radiography(root=None, *, data_home=None, return_X_y=False):
    """Load the COVID-19 Radiography Database or COVID-QU-Ex, chest X-rays in three or four classes.

    Parameters
    ----------
    root : path-like, default=None
        The folder that Kaggle's archive unpacks to, of either edition; which one it is, the names
        of the folders tell. None is "covid_radiography" in `data_home`. Nothing is downloaded,
        since Kaggle asks for a login.
    data_home : path-like, default=None
        Where data sets are kept. None is `SKMOECBM_DATA`, or "datasets" in the cache folder.
    return_X_y : bool, default=False
        Return only `(images, target)`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : object array of shape (n,)
            Paths, as str; masks are left out.
        target : str array of shape (n,)
            "covid-19", "lung opacity", "normal", "viral pneumonia"; of COVID-QU-Ex "covid-19",
            "non-covid infection", "normal".
        target_names : list of str
            The classes.
        groups : None
            Patients are not named.
        metadata : pandas.DataFrame of n rows
            ``folder``; ``source``, where the Excel tables that come with them are there.
        splits : mapping of str to dict of str to int array
            "official" of COVID-QU-Ex, else "random": part ("train", "val", "test") -> rows. Taking
            one warns that patients are not kept together.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part.
        edition : {"COVID-19 Radiography", "COVID-QU-Ex"}
            Which of the two the folder holds.
        task, metric, scoring : str
            "multi-class"; "balanced_accuracy" of `evaluate` and scikit-learn.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If the folder has no folders of classes.
    DownloadError
        If no `root` is given and nothing is in `data_home`.

    References
    ----------
    M. E. H. Chowdhury et al., IEEE Access 8, 132665 (2020); A. M. Tahir et al., Computers in
    Biology and Medicine 139, 105002 (2021).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import fetch_covid_radiography
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for k in range(20):
    ...         path = Path(root) / ("COVID" if k % 2 else "Normal") / "images" / f"{k}.png"
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         path.touch()  # images are opened when they are encoded
    ...     data = fetch_covid_radiography(root)
    >>> data.edition, len(data.images), str(data.target[0])
    ('COVID-19 Radiography', 20, 'covid-19')
    """
    home = data_folder(data_home, "fetch_covid_radiography") / "covid_radiography"
    by_hand = _BY_HAND.format(folder=str(home))
    if root is None and not home.is_dir():
        raise DownloadError(f"The COVID-19 X-rays are not in {str(home)!r}. {by_hand}")
    root = existing_root(home if root is None else root, "the COVID-19 X-rays", _HOLDS)
    rows = _rows(root)
    if not rows:
        raise InputError(f"{str(root)!r} has no images in folders of classes: {_HOLDS}. {by_hand}")
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["path", "folder", "part"])
    plain = [_plain(folder) for folder in frame["folder"]]
    is_qu_ex = "noncovid" in plain
    names = _QU_EX if is_qu_ex else _RADIOGRAPHY
    if strange := [folder for folder in plain if folder not in names]:
        raise InputError(
            f"{str(root)!r} holds folders of both editions (Non-COVID and {strange[0]!r}). Give "
            "the folder of one."
        )
    target = np.array([names[folder] for folder in plain])
    ids = [os.path.relpath(path, root) for path in frame["path"]]
    split = "official" if (frame["part"] != "").all() else "random"
    if split == "official":
        rows_of = split_of_column(frame["part"])
    else:
        rows_of = group_split([os.path.basename(name) for name in ids], target, ids)
    if source := _sources(root):
        frame["source"] = [source.get(Path(path).stem.lower()) for path in frame["path"]]
    data = image_bunch(
        name="covid_radiography",
        images=frame["path"].tolist(),
        target=target,
        target_names=list(names.values()),
        metadata=frame.drop(columns=["path", "part"]),
        splits={split: rows_of},
        traps={split: _TRAP.format(split=split)},
        more={"edition": "COVID-QU-Ex" if is_qu_ex else "COVID-19 Radiography"},
    )
    return (data.images, data.target) if return_X_y else data


def _plain(folder):
    """Return the letters of a folder's name in lower case: "Lung_Opacity" is "lungopacity"."""
    return "".join(letter for letter in folder.lower() if letter.isalpha())


def _rows(root):
    """Return path, folder of the class and part ("" if none) of each image, in order of paths."""
    known = {*_RADIOGRAPHY, *_QU_EX}
    rows = []

    def enters(name):  # masks are images as well; the infection data repeat films of the lung data
        return not ("mask" in name.lower() or name.lower().startswith("infection segmentation"))

    for folder, files in walk(root, enters):
        steps = Path(folder).relative_to(root).parts
        classes = [step for step in steps if _plain(step) in known]
        if not classes:
            continue
        part = next((step.lower() for step in steps if step.lower() in _PARTS), "")
        for file in files:
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                rows.append((os.path.join(folder, file), classes[-1], part))
    return rows


def _sources(root):
    """Return name of the image in lower case -> where it is from, of the tables that are there."""
    sources = {}
    for path in sorted(Path(root).rglob("*.metadata.xlsx")):
        header, *rows = read_xlsx(path) or [[]]
        columns = [cell.strip().lower() for cell in header]
        if "file name" in columns and "url" in columns:
            name, url = columns.index("file name"), columns.index("url")
            for row in rows:
                if len(row) > max(name, url):
                    sources[row[name].strip().lower()] = row[url].strip()
    return sources
