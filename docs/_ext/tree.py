"""The order of the pages, from `page_tree` in `conf.py`.

A toctree in the Markdown would stand there as a block of code for readers on a git host.
"""


def directive(entries):
    """Return the Markdown of a toctree that nobody sees in the text.

    Parameters
    ----------
    entries : list of str or (title, str)
    """
    lines = [e if isinstance(e, str) else f"{e[0]} <{e[1]}>" for e in entries]
    return "\n\n```{toctree}\n:hidden:\n:maxdepth: 2\n\n" + "\n".join(lines) + "\n```\n"


def add_tree(app, docname, source):
    """Append its toctree to a page that has one."""
    if docname in app.config.page_tree:
        source[0] += directive(app.config.page_tree[docname])


def setup(app):
    """Read `page_tree`."""
    app.add_config_value("page_tree", {}, "env")
    app.connect("source-read", add_tree)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
