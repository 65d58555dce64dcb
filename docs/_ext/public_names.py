"""Names in docstrings become links where they are public names, and stay code where they are not.

Docstrings write every name between single backticks: a class of this package, a parameter, a
string. Sphinx would warn of each that it cannot find.
"""

from importlib import import_module

from docutils import nodes
from sphinx import addnodes

MODULES = ["skmoecbm", "skmoecbm.concepts", "skmoecbm.datasets", "skmoecbm.moe"]


def public_name(name, rawtext, text, lineno, inliner, options=None, content=None):
    """Return a link to the public name `text`, if there is one when all pages are read."""
    environment = inliner.document.settings.env
    code = nodes.literal(rawtext, text, classes=["py"])
    if not text.replace(".", "").replace("_", "").isalnum():
        return [code], []
    link = addnodes.pending_xref(
        rawtext,
        code,
        refdomain="py",
        reftype="obj",
        reftarget=text,
        refdoc=environment.docname,
        may_be_missing=True,
    )
    link["py:module"] = environment.ref_context.get("py:module")
    link["py:class"] = environment.ref_context.get("py:class")
    return [link], []


def leave_as_code(app, environment, node, content):
    """Keep a name that is no public one, or scikit-learn's, as it is, without a warning."""
    elsewhere = node["reftarget"].startswith("sklearn.")
    return content if elsewhere or node.get("may_be_missing") else None


def link_types(app, config):
    """Let the types of parameters and results link to this package's own classes."""
    aliases = {}
    for module in MODULES:
        for name in import_module(module).__all__:
            if name[0].isupper():
                aliases.setdefault(name, f"{module}.{name}")
    # numpydoc adds links to other projects, which would lead out of the site
    config.numpydoc_xref_aliases_complete = aliases


def skip_made_by_others(app, what, name, thing, skip, options):
    """Leave out what scikit-learn and pydantic add to every class; their own sites tell of it."""
    function = getattr(thing, "fget", None) or getattr(thing, "func", None) or thing
    module = getattr(function, "__module__", None) or "skmoecbm"
    made_here = module.startswith("skmoecbm") and not name.endswith("_request")
    return None if made_here else True


def setup(app):
    """Add the role `public_name`, which is the default role of this site."""
    app.add_role("public_name", public_name)
    app.connect("missing-reference", leave_as_code)
    app.connect("config-inited", link_types, priority=900)
    app.connect("autodoc-skip-member", skip_made_by_others)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
