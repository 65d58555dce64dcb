"""What a benchmark's numbers were measured on."""

import os
import platform
from importlib import metadata

__all__ = ["describe_machine"]

PACKAGES = ("skmoecbm", "numpy", "torch", "scikit-learn", "open_clip_torch")


def describe_machine():
    """Return processor, cores, load and versions as one line of text."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    except OSError:  # not Linux: the platform's own word must do
        pass
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{model}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, "
        f"{versions}; {platform.system()}"
    )
