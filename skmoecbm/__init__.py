"""Concept bottleneck classifiers over a gated mixture of image-text experts."""

__version__ = "0.1.0.dev0"
