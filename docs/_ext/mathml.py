"""Equations as MathML, which browsers draw by themselves: no script, no fonts, no network."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def draw(tex, *, block):
    """Return an equation as MathML.

    Parameters
    ----------
    tex : str
        LaTeX, as docutils understands it.
    block : bool
        Whether the equation has a line of its own.

    Raises
    ------
    docutils.utils.math.MathError
        If the equation has what docutils does not know.
    """
    return tex2mathml(tex, as_block=block)


def visit_math(self, node):
    """Write an equation within a sentence."""
    self.body.append(draw(node.astext(), block=False))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    """Write an equation on a line of its own; a wide one scrolls on a narrow screen."""
    self.body.append('<div class="equation">' + draw(node.astext(), block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Offer the renderer `mathml` to Sphinx."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(visit_math, None),
        block_renderers=(visit_displaymath, None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
