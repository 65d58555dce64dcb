"""Reads HTML as a test wants to see it: its tags, and its tables as rows of text."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page.

    Attributes
    ----------
    tags : list of (name, dict of attributes)
    tables : list of list of list of str
        The cells' own text, without that of `<small>` inside.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self._inside, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name == "table":
            self.tables.append([])
        elif name == "tr":
            self.tables[-1].append([])
        elif name in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = self.tables[-1][-1]
        elif name == "small":
            self._inside.append(name)

    def handle_endtag(self, name):
        if name in ("td", "th"):
            self._open = None
        elif name == "small":
            self._inside.pop()

    def handle_data(self, data):
        if self._open is not None and not self._inside:
            self._open[-1] = " ".join((self._open[-1] + data).split())

    def table(self, *corner):
        """Return the tables whose first header row begins with these cells."""
        return [t for t in self.tables if t[0][: len(corner)] == list(corner)]
