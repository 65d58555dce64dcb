"""Data to learn and test with."""

from skmoecbm._leaks import LeakReport, check_leak
from skmoecbm.datasets._chestxray14 import fetch_chestxray14
from skmoecbm.datasets._chexpert import load_chexpert
from skmoecbm.datasets._covid import fetch_covid_radiography
from skmoecbm.datasets._ham10000 import fetch_ham10000
from skmoecbm.datasets._image_folder import load_image_folder
from skmoecbm.datasets._lesions import make_lesions
from skmoecbm.datasets._medmnist import fetch_medmnist
from skmoecbm.datasets._mimic_cxr import load_mimic_cxr

__all__ = [
    "LeakReport",
    "check_leak",
    "fetch_chestxray14",
    "fetch_covid_radiography",
    "fetch_ham10000",
    "fetch_medmnist",
    "load_chexpert",
    "load_image_folder",
    "load_mimic_cxr",
    "make_lesions",
]
