"""The report in a real browser: from the disk, without network or script, at any width."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    audit,
    model_report,
)
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions
from skmoecbm.hub import save
from tests.browser import open_page
from tests.pages import Page

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A model on drawings, and held-out drawings as files, one of a hostile name."""
    lesions = make_lesions(180, random_state=1)
    folder = tmp_path_factory.mktemp("drawings")
    paths = [folder / f"{i}.png" for i in range(180)]
    paths[140] = folder / f"{HOSTILE}.png"
    for path, image in zip(paths, lesions.images, strict=True):
        Image.fromarray(image).save(path)
    experts = [
        (name, ConceptEncoder(name, "lesions", cache_dir=None))
        for name in ("demo-general", "demo-structures")
    ]
    classifier = GatedConceptBottleneckClassifier(guard=False, specialize=False, random_state=0)
    model = make_pipeline(ExpertUnion(experts), classifier)
    return model.fit(paths[:140], lesions.target[:140]), paths, lesions.target


@pytest.fixture(scope="module")
def url(drawn, tmp_path_factory):
    model, paths, y = drawn
    made = audit(model, paths[140:], y[140:], checks=["calibration", "language"], n_bootstrap=20)
    folder = tmp_path_factory.mktemp("report")
    path = model_report(
        model, paths[140:], y[140:], path=folder / "r.html", audit=made, n_bootstrap=50, n_cases=60
    )
    return path.as_uri()


def visible(page):
    return page.locator(".case").evaluate_all("all => all.filter(e => e.offsetParent).length")


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_it_opens_from_the_disk_without_an_error_a_request_or_a_script(browser, url):
    with open_page(browser, url) as (page, seen):
        assert page.title() == "Model report"
        loaded = page.locator("img").evaluate_all("all => all.map(e => e.naturalWidth)")
        assert len(loaded) == 40 and min(loaded) > 50
        assert page.locator("script").count() == 0
        assert page.locator(f".name:text-is('{HOSTILE}.png')").count() >= 1
    assert (seen.faults, seen.requests, seen.dialogs) == ([], [], [])


def test_the_check_of_a_page_sees_what_it_should(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<script>console.error('fault'); alert('hello')</script><img src='gone.png'>"
    )
    with open_page(browser, (tmp_path / "bad.html").as_uri()) as (page, seen):
        page.wait_for_load_state()
    assert "fault" in seen.faults and seen.dialogs == ["hello"] and len(seen.requests) == 1


def test_its_policy_lets_nothing_in_that_escaping_might_have_missed(browser, url, tmp_path):
    content = Path(url.removeprefix("file://")).read_text(encoding="utf-8")
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)><script src=y.js></script>"
    copy = tmp_path / "copy.html"
    copy.write_text(content.replace("</body>", bad + "</body>"), encoding="utf-8")
    with open_page(browser, copy.as_uri()) as (page, seen):
        page.wait_for_load_state()
    assert seen.dialogs == [] and len(seen.faults) >= 3


def test_the_gallery_filters_by_class_and_kind(browser, url, drawn):
    model, paths, y = drawn
    said, truth = model.predict(paths[140:]), y[140:]
    with open_page(browser, url) as (page, _):
        assert visible(page) == page.locator(".case").count() == 40
        for k, label in enumerate(model.classes_):
            page.locator(f"#class-{k}").check()
            assert visible(page) == ((said == label) | (truth == label)).sum()
            page.locator("#kind-wrong").check()
            wrong = (said != truth) & ((said == label) | (truth == label))
            assert visible(page) == wrong.sum()
            assert page.locator(".none").is_visible() == (wrong.sum() == 0)
            page.locator("#kind-all").check()
        page.locator("#class-all").focus()
        page.keyboard.press("ArrowRight")  # without a mouse too
        assert page.locator("#class-0").is_checked()


def test_each_image_opens_its_explanation(browser, url, drawn):
    model, paths, _ = drawn
    logits = model.decision_function(paths[140:])
    names = [path.name for path in paths[140:]]
    with open_page(browser, url) as (page, _):
        for card in page.locator(".case").all()[::5]:
            assert not card.locator(".why").is_visible()
            card.locator("summary").click()
            assert card.locator(".why").is_visible()
            row = logits[names.index(card.locator(".name").text_content())]
            shown = card.locator("table.bars tfoot .number").first.text_content()
            expected = f"{row.max():+.2f}".replace("-", "\N{MINUS SIGN}")
            assert shown == expected
            bars = card.locator("table.bars").first.locator(".bar")
            lengths = bars.evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
            adds = card.locator("table.bars").first.locator("tbody .number").all_text_contents()
            adds = [abs(float(a.replace("\N{MINUS SIGN}", "-"))) for a in adds]
            full = max(lengths)  # drawn to scale, but for what would be thinner than a pixel
            np.testing.assert_allclose(
                np.array(lengths) / full, np.array(adds) / max(adds), atol=0.03
            )


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_runs_over_the_side_of_a_phone(browser, url, width):
    with open_page(browser, url, viewport={"width": width, "height": 800}) as (page, _):
        assert overflow(page) <= 0
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert overflow(page) <= 0


CONTRAST = """
() => {
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(
      v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility()) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(e).color)), luminance(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([contrast, e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_light_and_dark(browser, url, scheme):
    with open_page(browser, url, color_scheme=scheme) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 150) == (scheme == "dark")
        found = page.evaluate(CONTRAST)
    assert len(found) > 1000
    assert found[0][0] >= 4.5, found[:3]  # WCAG 2.2, 1.4.3 (AA)


def test_print_is_light_and_shows_the_explanations(browser, url):
    with open_page(browser, url, color_scheme="dark") as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert (
            page.locator(".case .why").first.evaluate("e => e.getBoundingClientRect().height") > 99
        )
        assert not page.locator("nav").is_visible()


def test_headings_follow_each_other_and_images_and_tables_are_named(url):
    tags = Page(Path(url.removeprefix("file://")).read_text(encoding="utf-8")).tags
    levels = [int(name[1]) for name, _ in tags if name in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(len(a["alt"]) > 10 for name, a in tags if name == "img")
    assert all(a.get("scope") in ("col", "row") for name, a in tags if name == "th")
    assert all(a.get("aria-label") for _, a in tags if a.get("class") == "scroll")


def test_the_command_writes_a_report_with_and_without_a_table(drawn, tmp_path, capsys):
    model, paths, y = drawn
    save(model, tmp_path / "model")
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in paths[150:180]:
        shutil.copy(path, photos)
    rows = zip(paths[150:180], y[150:180], range(30), strict=True)
    lines = ["file,dx,lesion", *(f"{path.name},{label},{i // 2}" for path, label, i in rows)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out" / "report.html"
    start = ["report", str(tmp_path / "model"), "--images", str(photos), "--out", str(out)]
    start += ["--cache-dir", "none", "--n-bootstrap", "20", "--cases", "3"]
    labelled = ["--labels", str(table), "--image-column", "file", "--label-column", "dx"]
    assert main([*start, *labelled, "--group-column", "lesion", "--no-file-names"]) == 0
    assert f"report on 30 images written to {out}" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert "20 resamples of 15 groups" in text and paths[150].name not in text
    assert main(start) == 0
    assert "No labels were given" in out.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main([*start, "--labels", str(table)]) == 2
    assert "--labels needs --image-column and --label-column" in capsys.readouterr().err
    assert main([*start, "--group-column", "lesion"]) == 2
    assert "--group-column is about a table of labels" in capsys.readouterr().err
    assert main([*start[:5], str(photos / paths[150].name)]) == 2
    assert "which this command reads" in capsys.readouterr().err
