"""The local app: its desk without a browser, and the page from end to end in headless Chromium."""

import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import Pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    InputError,
    intervene,
    load,
    save,
)
from skmoecbm._app_address import check_address
from skmoecbm._app_desk import Desk, decision_html
from skmoecbm._intervene import intervene_features
from skmoecbm.cli import main
from skmoecbm.datasets import make_lesions
from tests.browser import missing

HOSTILE = "<script>alert(1)</script>'\"&"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, a lesion, a file that is too large, and one that is no image."""
    folder = tmp_path_factory.mktemp("app")
    lesions = make_lesions(120, random_state=0)
    names = {"general": "demo-general", "structures": "demo-structures"}
    union = ExpertUnion([(name, ConceptEncoder(model, "lesions")) for name, model in names.items()])
    labels = np.where(lesions.target == "mel-like", HOSTILE, lesions.target)
    classifier = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(prior=None), random_state=0
    )
    model = Pipeline([("experts", union), ("classifier", classifier)])
    save(model.fit(lesions.images, labels), folder / "model")
    Image.fromarray(make_lesions(1, random_state=9).images[0]).save(folder / "lesion.png")
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    (folder / "fake.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def desk(folder):
    return Desk(load(folder / "model"), max_bytes=2**20)


def test_what_is_seen_is_what_the_model_says(desk, folder):
    seen = desk.see(folder / "lesion.png")
    model = load(folder / "model")
    expected = model.predict_proba([str(folder / "lesion.png")])
    assert np.array_equal(seen.result.probabilities, expected)
    known = {f"{e}__{c}" for e, own in enumerate(model[-1].concept_names_) for c in own}
    assert len(seen.start) == len(known)
    assert all(0 <= place <= 100 for place in seen.start.values())
    shown = intervene(model, [str(folder / "lesion.png")], {}).before
    sizes = {
        f"{name}__{concept}": size
        for e, name in enumerate(shown.expert_names)
        for concept, size in zip(
            shown.concept_names[e], np.abs(shown.contributions[e][0]).max(axis=1), strict=True
        )
    }
    assert seen.strongest == sorted(sizes, key=lambda column: -sizes[column])


def test_what_is_decided_is_intervene_without_the_experts_that_are_off(desk, folder):
    seen = desk.see(folder / "lesion.png")
    model = load(folder / "model")
    column = next(c for c in seen.strongest if c.startswith("structures"))
    found = desk.decide(seen.features, {column: 97.5, "general__hair": 3.0}, ["general"])
    expected = intervene_features(
        model[-1].without("general"), seen.features, {column: "p97.5"}
    ).probabilities
    assert np.array_equal(found.probabilities, expected)
    both = desk.decide(seen.features, {column: 97.5}, [])
    assert not np.array_equal(both.probabilities, found.probabilities)
    again = intervene(model, [str(folder / "lesion.png")], {column: "p97.5"})
    assert np.array_equal(both.probabilities, again.probabilities)


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own, at the header
def test_what_the_desk_refuses_is_said(desk, folder):
    with pytest.raises(InputError, match=r"has 1\.\d MB; the app takes images of at most 1 MB"):
        desk.see(folder / "large.png")
    words = r"^The image 'fake\.png' cannot be read: .* image format\. Choose another one\.$"
    with pytest.raises(InputError, match=words):
        desk.see(folder / "fake.png")
    Image.new("1", (13_000, 13_000)).save(folder / "bomb.png")
    assert (folder / "bomb.png").stat().st_size < 25_000
    with pytest.raises(InputError, match=r"has 169 million pixels; the app takes at most 64\."):
        desk.see(folder / "bomb.png")
    seen = desk.see(folder / "lesion.png")
    with pytest.raises(InputError, match="Every expert is switched off"):
        desk.decide(seen.features, {}, ["general", "structures"])
    with pytest.raises(InputError, match="takes something else"):
        Desk(load(folder / "model")[-1])
    texts = ConceptEncoder("demo-general", "lesions", modality="text")
    with pytest.raises(InputError, match="takes something else"):
        Desk(Pipeline([("texts", texts), ("clf", GatedConceptBottleneckClassifier())]))


def test_of_a_search_the_best_model_is_shown(folder):
    model = load(folder / "model")
    found = SimpleNamespace(best_estimator_=model[-1])
    ends_in_one = Pipeline([model.steps[0], ("search", found)])
    for searched in (SimpleNamespace(best_estimator_=model), ends_in_one):
        seen = Desk(searched).see(folder / "lesion.png")
        expected = model.predict_proba([str(folder / "lesion.png")])
        assert np.array_equal(seen.result.probabilities, expected)


def test_a_class_is_called_by_its_name_and_its_label(desk, folder):
    seen = desk.see(folder / "lesion.png")
    label = "df-like"
    page = decision_html(seen.result, seen.result, names={label: "<b>dermatofibroma"})
    assert f"<td>&lt;b&gt;dermatofibroma ({label})</td>" in page and f"data-class='{label}'" in page
    assert f"class='said'>&lt;b&gt;dermatofibroma ({label}), probability" in page
    assert f">{label}<" not in page and ">nv-like<" in page


def test_names_are_escaped_and_the_desk_leaves_the_model_alone(desk, folder):
    seen = desk.see(folder / "lesion.png")
    page = decision_html(seen.result, seen.result, off=[HOSTILE])
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("data-now=") == 7
    model = load(folder / "model")
    Desk(model)
    assert model[0].experts_[0][1].cache_dir == "auto"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    """The app as the command line starts it; its address and the folder of its temporary files."""
    if importlib.util.find_spec("gradio") is None:
        missing("gradio is not installed: pip install 'skmoecbm[app]'")
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "skmoecbm.cli", "app", str(folder / "model")]
    process = subprocess.Popen(
        [*command, "--port", str(free_port()), "--max-mb", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("open "):
            break
    assert process.poll() is None, "".join(printed)
    yield printed[-1].split()[1], temporary
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list(temporary.glob("skmoecbm-app-*")), "uploads were left behind"


@pytest.fixture
def page(served, browser):
    """The page, all that it asked for, and all that went wrong on it."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "console",
        lambda said: page.faults.append(said.text) if said.type == "error" else None,
    )
    page.on("dialog", lambda dialog: page.faults.append(f"a script ran: {dialog.message}"))
    page.goto(served[0])
    page.wait_for_selector("#image input[type=file]", state="attached", timeout=60_000)
    yield page
    page.close()


def upload(page, path):
    page.set_input_files("#image input[type=file]", str(path))


def numbers(page):
    """Return the probabilities that the page shows, by class."""
    rows = page.locator("#decision tr[data-class]")
    return {
        rows.nth(i).get_attribute("data-class"): float(rows.nth(i).get_attribute("data-now"))
        for i in range(rows.count())
    }


def wait_for(check, seconds=60):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "the page did not change"
        time.sleep(0.1)


def test_upload_slider_and_expert_show_the_numbers_of_intervene(page, served, folder):
    model, image = load(folder / "model"), [str(folder / "lesion.png")]
    classes = model.classes_.tolist()
    upload(page, folder / "lesion.png")
    page.wait_for_selector("#decision .said", timeout=60_000)
    assert numbers(page) == dict(zip(classes, model.predict_proba(image)[0].tolist(), strict=True))

    label = page.locator("#slider-0 label, #slider-0 [data-testid=block-info]").first.inner_text()
    concept, expert = re.match(r"(.+) \((\w+)\)", label).groups()
    before = numbers(page)
    page.locator("#slider-0 input[type=number]").fill("12")
    page.locator("#slider-0 input[type=number]").press("Tab")
    wait_for(lambda: numbers(page) != before)
    told = intervene(model, image, {concept: "p12"}, experts=expert)
    assert numbers(page) == dict(zip(classes, told.probabilities[0].tolist(), strict=True))

    moved, other = numbers(page), {"general": "structures", "structures": "general"}[expert]
    page.get_by_label(other, exact=True).uncheck()
    wait_for(lambda: numbers(page) != moved)
    features = model[:-1].transform(image)
    alone = intervene_features(model[-1].without(other), features, {f"{expert}__{concept}": "p12"})
    assert numbers(page) == dict(zip(classes, alone.probabilities[0].tolist(), strict=True))
    assert f"Switched off: {other}" in page.inner_text("#decision")
    sliders = page.locator("[id^=slider-] input[type=number]")
    blocks = page.locator("[id^=slider-]").all()
    owners = [re.search(r" \((general|structures)\)", one.inner_text())[1] for one in blocks]
    wait_for(lambda: any(one.is_disabled() for one in sliders.all()))
    assert len(owners) == sliders.count() and set(owners) == {expert, other}
    for owner, slider in zip(owners, sliders.all(), strict=True):
        assert slider.is_disabled() == (owner == other)

    page.get_by_label(expert, exact=True).uncheck()
    wait_for(lambda: "Every expert is switched off" in page.inner_text("#message"))
    page.get_by_role("button", name="back to as seen").click()
    wait_for(lambda: page.locator("#decision .said").count() and numbers(page) == before)
    wait_for(lambda: not any(one.is_disabled() for one in sliders.all()))
    for name in (expert, other):
        assert page.get_by_label(name, exact=True).is_checked()
    assert "percentile" in page.inner_text("#about-sliders")
    assert page.faults == []
    outside = [url for url in page.asked if not url.startswith((served[0], "data:", "blob:"))]
    assert outside == []


def test_the_page_may_load_nothing_from_elsewhere(page, served):
    refused = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
            fetch('https://example.org/').catch(() => {});
        })"""
    )
    assert refused.startswith("https://example.org")
    assert served[0].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("[", 421),
    ],
)
def test_it_answers_to_no_name_but_its_own(served, host, status):
    place = served[0].removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.request("GET", "/config", headers={"Host": host})
    assert connection.getresponse().status == status
    connection.close()


def test_the_name_of_a_file_is_neither_link_nor_markup(page, folder):
    path = folder / "[click](https:example.org) *a* <b>.png"
    path.write_text("no image")
    upload(page, path)
    wait_for(lambda: "click" in page.inner_text("#message"))
    assert page.locator("#message a, #message em, #message b").count() == 0
    assert "[click](" in page.inner_text("#message") and "\\" not in page.inner_text("#message")
    assert page.faults == []


def test_files_that_are_too_large_or_no_image_are_refused(page, folder):
    upload(page, folder / "large.png")
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for(timeout=60_000)
    upload(page, folder / "fake.png")
    wait_for(lambda: "fake.png" in page.inner_text("#message"))
    assert "Traceback" not in page.inner_text("body")
    assert page.locator("#decision .said").count() == 0


def test_another_concept_gets_a_slider(page, folder):
    model, image = load(folder / "model"), [str(folder / "lesion.png")]
    upload(page, folder / "lesion.png")
    page.wait_for_selector("#decision .said", timeout=60_000)
    wait_for(lambda: page.locator("#slider-9").is_visible())
    page.locator("#concepts .token-remove").first.click()
    wait_for(lambda: not page.locator("#slider-9").is_visible())
    before = numbers(page)
    page.locator("#concepts input").click()
    page.locator("[role=option][aria-selected=false]").last.click()
    wait_for(lambda: page.locator("#slider-9").is_visible())
    label = page.locator("#slider-9 label, #slider-9 [data-testid=block-info]").first.inner_text()
    concept, expert = re.match(r"(.+) \((\w+)\)", label).groups()
    page.locator("#slider-9 input[type=number]").fill("100")
    page.locator("#slider-9 input[type=number]").press("Tab")
    wait_for(lambda: numbers(page) != before)
    told = intervene(model, image, {concept: "p100"}, experts=expert)
    classes = model.classes_.tolist()
    assert numbers(page) == dict(zip(classes, told.probabilities[0].tolist(), strict=True))
    assert page.faults == []


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "Port {port} of 127.0.0.1 is in use. Give another one with --port."),
        ("192.0.2.1", "'192.0.2.1' is no address of this machine. Give one that is with"),
        ("nowhere.invalid", "'nowhere.invalid' is no address of this machine."),
    ],
)
def test_an_address_that_cannot_be_served_is_told_before_the_model_is_loaded(
    folder, capsys, monkeypatch, host, words
):
    def unknown(*args, **settings):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("skmoecbm._command_model.load_model", lambda args: pytest.fail("loaded"))
    if host.endswith("invalid"):  # tests have no network to ask
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["app", str(folder / "model"), "--host", host, "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert f"skmoecbm app: error: {words.format(port=port)}" in told and "GRADIO" not in told
    check_address("127.0.0.1", port)  # free again


def test_without_gradio_the_error_names_the_extra(folder, monkeypatch):
    from skmoecbm.app import build_app

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with pytest.raises(InputError, match=r"pip install 'skmoecbm\[app\]'"):
        build_app(load(folder / "model"))
