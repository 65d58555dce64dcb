"""Pictures that open by themselves when they are clicked: wide ones are small on a phone."""

import re

# An <img> of the text that is no link yet: the gallery's small pictures lead to their example.
PICTURE = re.compile(r"<a\b.*?</a>|(<img\b[^>]*?\bsrc=\"([^\"]+)\"[^>]*>)", re.DOTALL)


def linked(body):
    """Return the HTML of a page with each picture a link to itself.

    Parameters
    ----------
    body : str
    """

    def link(match):
        picture, source = match.groups()
        if picture is None or "thumb" in source:
            return match[0]
        return f'<a class="whole-picture" href="{source}">{picture}</a>'

    return PICTURE.sub(link, body)


def link_pictures(app, pagename, templatename, context, doctree):
    """Change the body of a page before the template takes it."""
    if "body" in context:
        context["body"] = linked(context["body"])


def setup(app):
    """Listen to pages being written."""
    app.connect("html-page-context", link_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
