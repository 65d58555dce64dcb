"""Doubles of an OpenAI-compatible endpoint and of Ollama, on the loopback interface.

They speak the wire formats of `POST /v1/chat/completions` and of `POST /api/chat` (a stream of JSON
lines), so that the real packages openai and ollama talk to them; there is no model behind them. A
test says what each request is answered: a `str` is the text of an answer, the rest stands below.
"""

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """A good answer, its tokens and how it ended."""

    text: str = ""
    finish: str = "stop"
    tokens: tuple | None = (100, 20)
    refusal: str | None = None
    thinking: str | None = None


@dataclass
class Status:
    """An answer with a status other than 200."""

    status: int
    message: str = "no"
    headers: dict = field(default_factory=dict)
    code: str | None = None


@dataclass
class Body:
    """A body as it stands, with status 200."""

    body: bytes
    content_type: str = "application/json"


class Slow:
    """Nothing, until the client has long given up."""


class NoChoices:
    """A completion without choices."""


class CutBody:
    """A body that breaks off in the middle, though its length was announced."""


class BrokenStream:
    """A stream with the whole text, but without its last part (Ollama)."""


class HalfLine:
    """A stream that ends in the middle of a line (Ollama)."""


class ErrorInStream:
    """A stream in whose middle an error stands (Ollama)."""


@dataclass
class Server:
    url: str
    requests: list = field(default_factory=list)


def _completion(answer):
    message = {"role": "assistant", "content": answer.text or None, "refusal": answer.refusal}
    body = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "double",
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
    }  # fmt: skip
    if answer.tokens:
        prompt, completion = answer.tokens
        body["usage"] = {
            "prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }  # fmt: skip
    return body


def _parts(answer):
    """Yield the parts of an Ollama stream, two words of the text in each but the last."""
    start = {"model": "double", "created_at": "2026-01-01T00:00:00Z"}
    if answer.thinking:
        message = {"role": "assistant", "content": "", "thinking": answer.thinking}
        yield {**start, "message": message, "done": False}
    half = len(answer.text) // 2
    for piece in (answer.text[:half], answer.text[half:]):
        yield {**start, "message": {"role": "assistant", "content": piece}, "done": False}
    last = {"message": {"role": "assistant", "content": ""}, "done": True}
    last["done_reason"] = answer.finish
    if answer.tokens:
        last["prompt_eval_count"], last["eval_count"] = answer.tokens
    yield {**start, **last}


@contextlib.contextmanager
def serve(script):
    """Answer requests as `script` says; yield the `Server`.

    `script` is a list, whose last entry is repeated, or a function from the request's body.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, status, body, content_type="application/json", announced=None, **headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(announced or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def chunks(self, lines):
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append({**asked, "authorization": self.headers["Authorization"]})
            known = {"/v1/chat/completions": self.openai, "/api/chat": self.ollama}
            if self.path not in known:
                self.reply(404, b'{"error": "no such path"}')
                return
            what = script(asked) if callable(script) else script[min(number, len(script) - 1)]
            what = Answer(what) if isinstance(what, str) else what
            if isinstance(what, Slow) or what is Slow:
                closing.wait(10)
                self.close_connection = True
            elif isinstance(what, Body):
                self.reply(200, what.body, what.content_type)
            else:
                known[self.path](what)

        def openai(self, what):
            if isinstance(what, Status):
                error = {"message": what.message, "type": "error", "code": what.code}
                self.reply(what.status, json.dumps({"error": error}).encode(), **what.headers)
            elif what is NoChoices:
                self.reply(200, json.dumps({**_completion(Answer("x")), "choices": []}).encode())
            elif what is CutBody:
                body = json.dumps(_completion(Answer('{"phrases": []}'))).encode()
                self.reply(200, body[: len(body) // 2], announced=len(body))
                self.close_connection = True
            else:
                self.reply(200, json.dumps(_completion(what)).encode())

        def ollama(self, what):
            if isinstance(what, Status):
                self.reply(
                    what.status, json.dumps({"error": what.message}).encode(), **what.headers
                )
                return
            broken = what in (BrokenStream, HalfLine, ErrorInStream, CutBody)
            answer = Answer('{"words": ["half"]}') if broken else what
            lines = [json.dumps(part).encode() + b"\n" for part in _parts(answer)]
            if what is BrokenStream:
                lines = lines[:-1]
            elif what is HalfLine:
                lines = [lines[0], lines[1][:20]]
            elif what is ErrorInStream:
                lines = [lines[0], b'{"error": "the runner stopped"}\n']
            if what is CutBody:
                self.reply(200, lines[0], "application/x-ndjson", announced=10_000)
                self.close_connection = True
            else:
                self.chunks(lines)

    lock, closing = threading.Lock(), threading.Event()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        closing.set()
        http.shutdown()
        http.server_close()
        thread.join()
