"""The pictures of the gallery are the files that the examples save."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
from sphinx_gallery.scrapers import figure_rst


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
        for picture in sorted(Path(block_vars["src_file"]).parent.glob("*.png")):
            state = (picture, picture.stat().st_mtime_ns)
            if state not in self.seen:
                self.seen.add(state)
                taken.append(next(block_vars["image_path_iterator"]))
                shutil.copyfile(picture, taken[-1])
        plt.close("all")
        return figure_rst(taken, gallery_conf["src_dir"])


def clear(gallery_conf, script, when):
    """Remove what an example has left beside itself: a model's folder looks like a gallery."""
    if when == "after":
        for left in Path(script).parent.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.suffix not in (".py", ".rst"):
                left.unlink()
