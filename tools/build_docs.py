"""Build the site of `docs/`; then open `docs/_build/html/index.html`.

Warnings are errors, and a reference that leads nowhere is a warning. Examples that have run once
run again only when they were changed.
"""

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(arguments=None):
    """Build and return the exit status of Sphinx."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-gallery", action="store_true", help="show the examples without running them"
    )
    asked = parser.parse_args(arguments)
    for folder in ("reference", "outside"):  # made anew: a name that is gone must not stay
        shutil.rmtree(DOCS / folder, ignore_errors=True)
    flags = ["-t", "no_gallery"] if asked.no_gallery else []
    strict = ["-W", "--keep-going", "-n"]
    return build_main([*strict, *flags, "-b", "html", str(DOCS), str(DOCS / "_build" / "html")])


if __name__ == "__main__":
    sys.exit(main())
