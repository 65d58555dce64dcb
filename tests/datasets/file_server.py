"""A server of files on the loopback interface that can be told to misbehave."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, where = self.server, urlsplit(self.path)
        path = unquote(where.path)
        asked = self.headers.get("Range")
        with server.lock:
            server.requests.append((path, asked))
            fault = server.faults[path].pop(0) if server.faults.get(path) else {}
        server.gate.wait(30)
        if "status" in fault:
            return self.answer(fault["status"], b"no", fault.get("headers"))
        if path.startswith("/api/datasets/:persistentId"):
            return self.dataverse(parse_qs(where.query)["persistentId"][0])
        if path.startswith("/moved/"):
            return self.answer(302, b"", {"Location": server.address + path[6:]})
        if path not in server.files:
            return self.answer(404, b"not found")
        content, headers, status = server.files[path], {}, 200
        if asked and not server.ignores_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if "no length" in fault:  # the end of the connection is that of the file
            headers |= {"Content-Length": None, "Connection": "close"}
        self.answer(status, content, headers, cut=fault.get("cut"))
        return None

    def do_POST(self):  # what huggingface_hub asks for paths of a data set
        length = int(self.headers.get("Content-Length", 0))
        asked = parse_qs(self.rfile.read(length).decode()) if length else {}
        found = re.fullmatch(r"/api/datasets/(.+)/paths-info/(.+)", unquote(self.path))
        told = []
        for path in asked.get("paths", []):
            content = self.server.files.get(f"/datasets/{found[1]}/resolve/{found[2]}/{path}")
            if content is None:
                continue
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path.endswith(".zip"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            told.append(entry)
        self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def dataverse(self, doi):
        entries = []
        for k, (name, about) in enumerate(self.server.dataverse.get(doi, {}).items()):
            entries.append({"label": name, "dataFile": {"id": k, **about}})
        told = {"status": "OK", "data": {"latestVersion": {"files": entries}}}
        self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body=b"", headers=None, cut=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that went away in the middle


@contextlib.contextmanager
def served(files=None):
    """A running server; `files` maps paths to bytes, `faults` a path to what goes wrong first."""
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.requests = dict(files or {}), {}, []
    server.dataverse, server.ignores_ranges = {}, False
    server.lock, server.gate = threading.Lock(), threading.Event()
    server.gate.set()
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
