"""What is downloaded of HAM10000: images, table, ISIC's test part, the community split."""

import re

import numpy as np

from skmoecbm.datasets._archives import unpack
from skmoecbm.datasets._dataverse import dataverse_files
from skmoecbm.datasets._download import RemoteFile, download, folder_lock
from skmoecbm.datasets._folders import not_here
from skmoecbm.datasets._ham10000_tables import BY_HAND, TABLE
from skmoecbm.datasets._splits import PARTS
from skmoecbm.exceptions import InputError

__all__ = ["community_split", "download_ham", "has_community_split"]

SERVER = "https://dataverse.harvard.edu"
DOI = "doi:10.7910/DVN/DBW86T"
# The files of LaBo, whose split it is, at the commit that brought them.
SPLITS_URL = (
    "https://raw.githubusercontent.com/YueYANG1996/LaBo/"
    "dc38fe8b92961880ec09e97705885b023b5c7359/datasets/HAM10000/splits/"
)
_TRAINING = (TABLE, "HAM10000_images_part_1", "HAM10000_images_part_2")
_TEST = ("ISIC2018_Task3_Test_GroundTruth", "ISIC2018_Task3_Test_Images")
_SPLIT_FILES = {part: f"class2images_{part}.p" for part in PARTS}
_SPLIT_BY_HAND = (
    "By hand: put class2images_train.p, class2images_val.p and class2images_test.p, which are in "
    "datasets/HAM10000/splits of https://github.com/YueYANG1996/LaBo, into `root`; or give your "
    "table a column split_community."
)
_NAME_OF_IMAGE = re.compile(rb"ISIC_\d{7}")


def download_ham(home, download_if_missing, verbose, *, with_test=False):
    """Make the folder `home` hold HAM10000, and the test part of ISIC 2018 if asked."""
    wanted = (*_TRAINING, *_TEST) if with_test else _TRAINING

    def missing():
        there = [path for path in home.glob("*") if path.suffix not in (".part", ".zip")]
        return [name for name in wanted if name not in {path.stem for path in there}]

    if not missing():
        return
    if not download_if_missing:
        raise not_here("HAM10000", home, BY_HAND)
    with folder_lock(home):
        if not (names := missing()):  # another process has got it meanwhile
            return
        for name, file in dataverse_files(SERVER, DOI, names, remedy=BY_HAND).items():
            path = download(file, home, remedy=BY_HAND, verbose=verbose)
            if path.suffix == ".zip":
                unpack(path, home / name, verbose=verbose)


def has_community_split(root):
    """Return the folder, `root` or "splits" in it, that holds the three files, or None."""
    for folder in (root, root / "splits"):
        if all((folder / name).exists() for name in _SPLIT_FILES.values()):
            return folder
    return None


def community_split(root, home, ids, download_if_missing, verbose):
    """Return part -> rows of the community split, from LaBo's three files.

    Parameters
    ----------
    root, home : Path
        Where the files may be, and where they are downloaded to.
    ids : list of str
        The images, by row.
    download_if_missing, verbose : bool

    Raises
    ------
    InputError
        If a file is not what it should be.
    DownloadError
        If they are not here and cannot be downloaded, or may not be.
    """
    folder = has_community_split(root) or has_community_split(home)
    if folder is None:
        folder = home / "splits"
        if not download_if_missing:
            raise not_here("The community split of HAM10000", folder, _SPLIT_BY_HAND)
        with folder_lock(folder):
            for name in _SPLIT_FILES.values():
                file = RemoteFile(SPLITS_URL + name, name)
                download(file, folder, remedy=_SPLIT_BY_HAND, verbose=verbose)
    row = {image: k for k, image in enumerate(ids)}
    parts, seen = {}, set()
    for part, file_name in _SPLIT_FILES.items():
        # These are pickles, which could run code. Nothing in them is run: all that is needed are
        # the names of images, which stand in them as text.
        path = folder / file_name
        names = {name.decode() for name in _NAME_OF_IMAGE.findall(path.read_bytes())}
        if not names or names & seen:
            raise InputError(
                f"{str(path)!r} is not what it should be: it names "
                f"{'images of another part' if names else 'no image'}. Remove it. {_SPLIT_BY_HAND}"
            )
        seen |= names
        parts[part] = np.array(sorted(row[name] for name in names if name in row), dtype=np.intp)
    return parts
