"""Build the site of `docs/`: `python tools/build_docs.py`, then open `docs/_build/html/index.html`.

Warnings are errors, references that lead nowhere are warnings. What has run once runs again only when it was changed.
"""

import argparse
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
    flags = ["-t", "no_gallery"] if asked.no_gallery else []
    strict = ["-W", "--keep-going", "-n"]
    return build_main([*strict, *flags, "-b", "html", str(DOCS), str(DOCS / "_build" / "html")])


if __name__ == "__main__":
    sys.exit(main())
