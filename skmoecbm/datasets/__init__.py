"""Data to learn and test with."""

from skmoecbm.datasets._lesions import make_lesions

__all__ = ["make_lesions"]
