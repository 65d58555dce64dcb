"""A local page: drop an image, see the decision, move its concepts, switch experts off."""

import os
import re
import shutil
import tempfile
from urllib.parse import urlsplit

from skmoecbm._app_address import check_address, is_loopback
from skmoecbm._app_desk import Desk, decision_html
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError, SkmoecbmError

__all__ = ["build_app", "serve_app"]

_INTRODUCTION = (
    "Drop an image. The model says what it sees; move a concept to another percentile of the "
    "training images, or switch an expert off, and see what it would have said. A research tool, "
    "**not a medical device**. Images stay on the machine that runs this page."
)
_SLIDERS = (
    "Where each concept stands among the training images, as a percentile: at 90 it is stronger "
    "than in 90 of 100 of them. Those of an expert that is switched off rest."
)
# Nothing that a page may load lies elsewhere: the browser itself refuses the rest.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)
_CSS = """
.decision table {border-collapse: collapse; width: 100%}
.decision td, .decision th {padding: 2px 8px; text-align: left}
.decision .said {font-size: 1.3em; font-weight: bold}
"""


def build_app(model, *, n_sliders=10, max_mb=20.0):
    """Return the page as a gradio `Blocks`, for `serve_app` or a Space of the Hub.

    Parameters
    ----------
    model : fitted Pipeline of image encoders and a classifier
        As `load` returns it. It is copied, and embeddings of images shown are not written.
    n_sliders : int, default=10
        Concepts that can be moved at a time; the strongest ones of an image come first.
    max_mb : float, default=20
        Larger files are refused.

    Returns
    -------
    gradio.Blocks

    Raises
    ------
    InputError
        If the model takes something else than images, or gradio is not installed.
    """
    check_number("build_app", "n_sliders", n_sliders, low=1, high=100, integer=True)
    check_number("build_app", "max_mb", max_mb, low=0, low_open=True)
    gr = _gradio()
    desk = Desk(model, max_bytes=int(max_mb * 2**20))
    none = "Drop an image first."

    def look(path):
        """Read an image and set everything to what is seen in it."""
        hidden = [gr.update(visible=False)] * n_sliders
        choice = gr.update(choices=[], value=[])
        experts = gr.update(value=desk.expert_names)
        if path is None:
            return None, {}, "", none, choice, experts, *hidden
        try:
            seen = desk.see(path)
        except SkmoecbmError as error:
            return None, {}, "", _as_text(error), choice, experts, *hidden
        shown = seen.strongest[:n_sliders]
        choice = gr.update(choices=[(_words(column), column) for column in seen.start], value=shown)
        told = "" if shown else "This model does not know its training range: no sliders."
        page = decision_html(seen.result, seen.result, names=desk.class_names)
        return seen, {}, page, told, choice, experts, *sliders_for(seen, shown, {})

    def is_heard(column, listened):
        return column.partition("__")[0] in listened

    def sliders_for(seen, shown, values, listened=desk.expert_names):
        """Return a slider for each concept, at its value or where the image has it."""
        shown = shown[:n_sliders]
        found = [
            gr.update(
                visible=True,
                label=_words(column),
                value=values.get(column, seen.start[column]),
                interactive=is_heard(column, listened),
            )
            for column in shown
        ]
        return found + [gr.update(visible=False)] * (n_sliders - len(shown))

    def choose(seen, shown, held, listened):
        """Show the sliders of other concepts; those that are gone are back at what is seen."""
        if seen is None:
            return {}, *[gr.update(visible=False)] * n_sliders
        held = {column: place for column, place in held.items() if column in shown}
        return held, *sliders_for(seen, shown, held, listened)

    def switch(shown, listened):
        """Let those sliders move whose expert is listened to: the others would change nothing."""
        told = [gr.update(interactive=is_heard(one, listened)) for one in shown[:n_sliders]]
        return told + [gr.update()] * (n_sliders - len(told))

    def restore(seen, shown):
        """Put the sliders and the experts back to what is seen in the image."""
        everyone = gr.update(value=desk.expert_names)
        if seen is None:
            return {}, everyone, *[gr.update(visible=False)] * n_sliders
        return {}, everyone, *sliders_for(seen, shown, {})

    def move(seen, shown, held, *places):
        """Take over where the sliders are; one that was not moved changes nothing."""
        if seen is None:
            return held
        pairs = zip(shown[:n_sliders], places, strict=False)
        return {column: place for column, place in pairs if place != seen.start[column]}

    def decide(seen, held, listened):
        """Return the page and what is to be said about it."""
        if seen is None:
            return "", none
        off = [name for name in desk.expert_names if name not in listened]
        try:
            now = desk.decide(seen.features, held, off)
            return decision_html(seen.result, now, off, names=desk.class_names), ""
        except InputError as error:
            return "", _as_text(error)

    settings = {"analytics_enabled": False, "fill_width": True, "delete_cache": (600, 600)}
    with gr.Blocks(title="skmoecbm", **settings) as page:
        gr.Markdown(f"# A model that explains itself\n\n{_INTRODUCTION}")
        for notice in desk.notices:
            gr.Markdown(f"**{_as_text(notice)}**")
        seen, held = gr.State(), gr.State({})
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="image",
                    elem_id="image",
                )
                # As it was uploaded, and refused in our words where it is no image.
                image.preprocess = lambda file: None if file is None else file.path
                message = gr.Markdown(none, elem_id="message")
                experts = gr.CheckboxGroup(
                    desk.expert_names,
                    value=desk.expert_names,
                    label="listen to",
                    elem_id="experts",
                )
            with gr.Column(scale=2):
                decision = gr.HTML(elem_id="decision")
            with gr.Column(scale=2):
                gr.Markdown(_SLIDERS, elem_id="about-sliders")
                back = gr.Button("back to as seen", elem_id="back", size="sm")
                sliders = [
                    gr.Slider(0, 100, step=0.1, visible=False, buttons=[], elem_id=f"slider-{i}")
                    for i in range(n_sliders)
                ]
                chosen = gr.Dropdown(
                    [],
                    multiselect=True,
                    max_choices=n_sliders,
                    label="concepts to move",
                    elem_id="concepts",
                )
        quick = {
            "show_progress": "hidden",
            "trigger_mode": "always_last",
            "api_visibility": "private",
        }
        image.change(
            look,
            image,
            [seen, held, decision, message, chosen, experts, *sliders],
            api_visibility="private",
        )
        chosen.input(choose, [seen, chosen, held, experts], [held, *sliders], **quick).then(
            decide, [seen, held, experts], [decision, message], **quick
        )
        gr.on(
            [slider.input for slider in sliders],
            move,
            [seen, chosen, held, *sliders],
            held,
            **quick,
        ).then(decide, [seen, held, experts], [decision, message], **quick)
        experts.input(decide, [seen, held, experts], [decision, message], **quick).then(
            switch, [chosen, experts], sliders, **quick
        )
        back.click(restore, [seen, chosen], [held, experts, *sliders], **quick).then(
            decide, [seen, held, experts], [decision, message], **quick
        )
    return page


def serve_app(model, *, host="127.0.0.1", port=7860, n_sliders=10, max_mb=20.0, on_ready=None):
    """Serve the page of `build_app` on this machine until interrupted.

    Parameters
    ----------
    model : fitted Pipeline
    host : str, default="127.0.0.1"
        Another address lets others reach the page, and with it the model and what they upload.
        At an address of this machine alone the page answers to no other name, so that no site
        open in the same browser can pass itself off as it (DNS rebinding).
    port : int, default=7860
    n_sliders, max_mb
        As of `build_app`.
    on_ready : callable or None, default=None
        Called with the address once the page is there.

    Raises
    ------
    InputError
        As `build_app`, or if the port is in use or the address not of this machine.
    """
    check_number("serve_app", "port", port, low=1, high=65535, integer=True)
    check_address(host, port)
    gr = _gradio()
    # What is uploaded lies in a folder of this run, and goes with it.
    uploads = tempfile.mkdtemp(prefix="skmoecbm-app-")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = uploads
    page = None
    try:
        page = build_app(model, n_sliders=n_sliders, max_mb=max_mb)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            share=False,
            inbrowser=False,
            quiet=True,
            ssr_mode=False,
            show_error=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Base(font="sans-serif", font_mono="monospace"),
            css=_CSS,
            max_file_size=int(max_mb * 2**20),  # refused before it is there
            app_kwargs={"middleware": [_policy_middleware(host)]},
        )
        if on_ready is not None:
            on_ready(address)
        page.block_thread()
    except OSError as error:
        # gradio's own sentence speaks of its own settings
        raise InputError(
            f"The page cannot be served at port {port} of {host}. Give another one with --port."
        ) from error
    finally:
        if page is not None:
            page.close()
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(uploads, ignore_errors=True)


def _gradio():
    """Return gradio, told to send nothing."""
    # read when gradio is imported and when a page starts
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            "The app needs the package gradio. Run: pip install 'skmoecbm[app]'"
        ) from error
    return gradio


def _policy_middleware(host):
    """Return what adds the content policy to every answer, and answers to the right names only."""
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse

    names = {"127.0.0.1", "localhost", "::1", host} if is_loopback(host) else None

    class Policy:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if names is not None and scope["type"] == "http":
                if _host_named(scope["headers"]) not in names:
                    refusal = f"This page answers to {host} alone. Others need --host.\n"
                    return await PlainTextResponse(refusal, 421)(scope, receive, send)

            async def send_with_policy(message):
                if message["type"] == "http.response.start":
                    header = (b"content-security-policy", _POLICY.encode())
                    message = {**message, "headers": [*message.get("headers", ()), header]}
                await send(message)

            await self.app(scope, receive, send_with_policy)

    return Middleware(Policy)


def _host_named(headers):
    """Return the name that a request asks for, without its port; None where there is none."""
    named = next((value for key, value in headers if key == b"host"), b"")
    try:
        return urlsplit(f"//{named.decode('latin-1')}").hostname
    except ValueError:
        return None


def _as_text(value):
    """Return text in Markdown that shows as it is: a file's name is no link and no picture."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", str(value))


def _words(column):
    """Return "concept (expert)" of "expert__concept"."""
    expert, _, concept = column.partition("__")
    return f"{concept} ({expert})"
