"""Links of the Markdown as they are in the repository, and their pages on the site.

In the repository a link leads to a file: `../CHANGELOG.md`, `../examples/plot_share.py`,
`../benchmarks/results/peers/README.md`. On the site the same link leads to the page made of it.
"""

import os
import posixpath
import re
from pathlib import Path

# ](target) or ](target#place) of a link or picture, but none that names a scheme.
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(r"examples/(\w+)\.py")


def on_site(target, pages):
    """Return where a file of the repository is on the site, from the folder `docs/`.

    Parameters
    ----------
    target : str
        From the root of the repository.
    pages : dict of str to str
        File of the repository -> page of the site.
    """
    if target in pages:
        return pages[target] + ".md"
    if target.rstrip("/") == "examples":
        return "gallery/index.rst"
    example = EXAMPLE.fullmatch(target)
    if example:
        return f"gallery/{example[1]}.rst"
    if target == "README.md":
        return "index.md"
    return posixpath.relpath(target, "docs")


def rewrite(text, file, page, pages):
    """Return Markdown with the links that it needs on the site.

    Parameters
    ----------
    text : str
    file : str
        Where the text stands, from the root of the repository.
    page : str
        Which page of the site it becomes.
    pages : dict of str to str
        File of the repository -> page of the site.
    """

    def moved(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), match[1]))
        place = posixpath.relpath(on_site(target, pages), posixpath.dirname(page) or ".")
        return f"]({place}{match[2] or ''})"

    parts = FENCE.split(text)
    return "".join(p if p.startswith("```") else LINK.sub(moved, p) for p in parts)


def write_outside_pages(app):
    """Put the files that lie outside `docs/` where Sphinx reads them; nothing that is unchanged."""
    docs = Path(app.srcdir)
    pages = app.config.outside_pages
    for file, page in pages.items():
        path = docs / f"{page}.md"
        path.parent.mkdir(exist_ok=True)
        text = rewrite((docs.parent / file).read_text("utf-8"), file, page, pages)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def rewrite_page(app, docname, source):
    """Rewrite the links of a page of `docs/`; those from outside are rewritten already."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md" and docname not in app.config.outside_pages.values():
        file = "docs/" + os.fspath(path.relative_to(app.srcdir)).replace(os.sep, "/")
        source[0] = rewrite(source[0], file, docname, app.config.outside_pages)


def setup(app):
    """Read `outside_pages`."""
    app.add_config_value("outside_pages", {}, "env")
    app.connect("builder-inited", write_outside_pages)
    app.connect("source-read", rewrite_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
