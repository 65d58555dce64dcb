"""Data to learn and test with."""

from skmoecbm._leaks import LeakReport, check_leak
from skmoecbm.datasets._ham10000 import fetch_ham10000
from skmoecbm.datasets._lesions import make_lesions

__all__ = ["LeakReport", "check_leak", "fetch_ham10000", "make_lesions"]
