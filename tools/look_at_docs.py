"""Open every page of the built site in headless Chromium, on a phone and in the dark, offline.

Tells of pages that ask the network for anything, complain, lack a picture, or are wider than the
screen.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import launched, open_page  # noqa: E402

SITE = ROOT / "docs" / "_build" / "html"
VIEWS = {
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def look(browser, page, settings, picture=None):
    """Return what is wrong with a page, a list of str."""
    with open_page(browser, page.as_uri(), offline=True, **settings) as (opened, seen):
        opened.wait_for_load_state("load")
        wrong = [f"asks for {url}" for url in seen.requests if not url.startswith("file:")]
        wrong += [f"says {fault}" for fault in seen.faults]
        wrong += [f"lacks {source}" for source in opened.evaluate(BROKEN)]
        wider = opened.evaluate(WIDER)
        wrong += [f"is {wider} pixels wider than the screen"] if wider > 0 else []
        if picture:
            opened.screenshot(path=str(picture))
    return wrong


def main(arguments=None):
    """Look, and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="such as index.html; without any all of them")
    parser.add_argument("--out", type=Path, help="a folder for pictures of the pages")
    asked = parser.parse_args(arguments)
    built = (page for page in SITE.rglob("*.html") if "_static" not in page.parts)
    pages = [SITE / page for page in asked.pages] or sorted(built)
    count = 0
    with launched() as browser:
        for page in pages:
            name = page.relative_to(SITE).as_posix()
            for view, settings in VIEWS.items():
                picture = None
                if asked.out:
                    asked.out.mkdir(parents=True, exist_ok=True)
                    picture = asked.out / f"{name.replace('/', '_')}-{view}.png"
                for sentence in look(browser, page, settings, picture):
                    count += 1
                    print(f"{name}, {view}: {sentence}")
    print(f"{len(pages)} pages looked at, {count} things wrong")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
