"""Draw the pictures of the guides again: each is what the Python of its page saves.

Pictures of another origin (`OTHERS` in `tests/test_readme.py`) stay as they are.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.test_readme import PYTHON_PAGES, blocks, pictures_of  # noqa: E402


def draw(page):
    """Run a page in a folder of its own and take over the pictures that it shows.

    Parameters
    ----------
    page : pathlib.Path

    Returns
    -------
    names : list of str
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        names = {"__name__": "__main__"}
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), names)
        matplotlib.pyplot.close("all")
        for name in pictures_of(page):
            (saved,) = Path(folder).rglob(name)
            picture = Image.open(saved).convert("RGB")
            if picture.getcolors(256):  # a palette then loses nothing, and is smaller
                picture = picture.quantize(256, dither=Image.Dither.NONE)
            picture.save(page.parent / "images" / name, optimize=True)
        os.chdir(ROOT)
    return pictures_of(page)


def main(arguments=None):
    """Draw those of the named pages, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="such as audit.md; without any all of them")
    asked = parser.parse_args(arguments).pages
    for page in PYTHON_PAGES:
        if page.parent.name == "docs" and pictures_of(page) and (page.name in asked or not asked):
            print(page.name, *draw(page))


if __name__ == "__main__":
    main()
