"""The pictures of the gallery are the files that the examples save."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
from sphinx_gallery.scrapers import figure_rst

# The copies of the examples that are run, which `conf.py` makes.
EXAMPLES = Path(__file__).resolve().parents[1] / "_build" / "examples"


class SavedPictures:
    """Take the PNG files that a cell has written.

    Not every figure is one of pyplot's, which sphinx-gallery looks through by itself.
    """

    def __init__(self):
        self.seen = set()

    def __repr__(self):
        """Return the same text in each build: sphinx-gallery compares settings by it."""
        return "SavedPictures()"

    def __call__(self, block, block_vars, gallery_conf):
        """Return the reST of the pictures that are new since the last cell."""
        taken = []
        for picture in sorted(EXAMPLES.glob("*.png")):
            state = (picture, picture.stat().st_mtime_ns)
            if state not in self.seen:
                self.seen.add(state)
                taken.append(next(block_vars["image_path_iterator"]))
                shutil.copyfile(picture, taken[-1])
        plt.close("all")
        return figure_rst(taken, gallery_conf["src_dir"])


def clear(gallery_conf, script, when):
    """Remove the folders that an example has left: a model's folder looks like a gallery.

    Only below `EXAMPLES`, whatever `script` is: it may be relative, and to another folder.
    """
    if when == "after":
        for left in EXAMPLES.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
