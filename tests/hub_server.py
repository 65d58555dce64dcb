"""A double of the Hugging Face Hub on the loopback interface: not the Hub, but its HTTP.

It answers the endpoints that the real `huggingface_hub` client calls when a model is pushed, listed
and loaded (repositories, commits, large files, tags, branches, resolve with ranges), keeps all in
memory, and can be told to fail. It knows nothing of Xet: tests set HF_HUB_DISABLE_XET.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub

from tests.hub_store import Hub, Repository, blob_id, is_large

PAGE = 2  # entries of a list in one answer, so that clients must ask for the next


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    hub = None

    def log_message(self, *args):
        pass

    # the wire

    def reply(self, status, body=b"", headers=None):
        if self.fault is not None and self.fault["how"] == "unanswered":
            return self.hang_up()
        if not isinstance(body, bytes):
            body, headers = (
                json.dumps(body).encode(),
                {"Content-Type": "application/json"} | (headers or {}),
            )
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.fault is not None and self.fault["how"] == "cut":
            self.wfile.write(body[: len(body) // 2])
            return self.hang_up()
        self.wfile.write(body)
        return None

    def refuse(self, status, code="", message=""):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.reply(status, {"error": message or code}, {k: v for k, v in headers.items() if v})

    def hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_one(self):
        headers = {name.title(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        fault = self.hub.fault(self.command, self.path, ("status", "cut", "unanswered"))
        self.fault = fault
        sends = self.command in ("PUT", "POST")
        if fault is not None and fault["how"] == "cut" and sends:
            self.rfile.read(min(64, int(self.headers.get("Content-Length") or 64)))
            return self.hang_up()
        self.body = self.read_body()
        if fault is not None and fault["how"] == "status":
            return self.reply(fault["status"], fault["body"], fault["headers"])
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        self.parts = [unquote(part) for part in split.path.strip("/").split("/")]
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.user = self.hub.tokens.get(token)
        if token is not None and self.user is None and not self.parts[0] == "cdn":
            return self.refuse(401, message="Invalid credentials in Authorization header")
        return self.route()

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def route(self):
        match [self.command, *self.parts]:
            case ["POST", "api", "repos", "create"]:
                return self.create()
            case ["POST", "api", "validate-yaml"]:
                return self.reply(200, {"errors": [], "warnings": []})
            case ["GET", "api", "models"]:
                return self.list_models()
            case ["PUT", "upload", sha256]:
                good = hashlib.sha256(self.body).hexdigest() == sha256
                self.hub.large |= {sha256: self.body} if good else {}
                return self.reply(200 if good else 400)
            case ["GET" | "HEAD", "cdn", sha256]:
                if self.command == "GET":
                    self.hub.downloads.append(self.hub.places[sha256])
                return self.send_file(self.hub.large[sha256], {"ETag": f'"{sha256}"'})
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                return self.batch(f"{owner}/{name}")
            case [_, "api", "models", owner, name, *rest]:
                return self.api(f"{owner}/{name}", rest)
            case ["GET" | "HEAD", owner, name, "resolve", revision, *path]:
                return self.resolve(f"{owner}/{name}", revision, "/".join(path))
        return self.reply(404)

    # repositories

    def repository(self, name, *, write=False):
        """Return the repository, or answer that this user may not see it and return None."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.user is None):
            return self.refuse(401 if self.user is None else 404, "RepoNotFound")
        if found.private and self.user != name.split("/")[0]:
            return self.refuse(404, "RepoNotFound")
        if write and self.user != name.split("/")[0]:
            return self.refuse(403 if self.user else 401, message="no rights to write here")
        return found

    def create(self):
        data = json.loads(self.body)
        name = f"{data.get('organization') or self.user}/{data['name']}"
        if self.user is None or name.split("/")[0] != self.user:
            return self.refuse(403 if self.user else 401, message="no rights to create it")
        if name in self.hub.repositories:
            url = f"{self.hub.address}/{name}"
            return self.reply(409, {"error": "You already created this model repo", "url": url})
        private = data.get("visibility") == "private" or data.get("private", False)
        made = Repository({"main": {".gitattributes": b"*.safetensors filter=lfs\n"}}, private)
        self.hub.repositories[name] = made
        return self.reply(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def list_models(self):
        found = []
        for name, repository in sorted(self.hub.repositories.items()):
            visible = not repository.private or self.user == name.split("/")[0]
            info = self.info(name, repository, *repository.find("main"))
            if (
                visible
                and set(self.query.get("filter", [])) <= set(info["tags"])
                and name.startswith(self.query.get("author", [""])[0])
                and self.query.get("search", [""])[0] in name
            ):
                found.append(info)
        return self.page(found)

    def page(self, entries):
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            path = re.sub(r"[?&]cursor=\d+", "", self.path)
            sign = "&" if "?" in path else "?"
            address = f"{self.hub.address}{path}{sign}cursor={start + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        return self.reply(200, entries[start : start + PAGE], headers)

    def info(self, name, repository, commit, files):
        meta = repository.front_matter(files)
        library = meta.get("library_name")
        siblings = [{"rfilename": path} for path in files]
        if "blobs" in self.query:
            for entry in siblings:
                content = files[entry["rfilename"]]
                entry |= {"size": len(content), "blobId": blob_id(content)}
                if is_large(entry["rfilename"]):
                    sha256 = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 100}
        return {
            "id": name, "sha": commit, "private": repository.private, "gated": repository.gated,
            "tags": [*meta.get("tags", []), *([library] if library else [])],
            "library_name": library, "downloads": 0, "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z", "siblings": siblings,
        }  # fmt: skip

    def api(self, name, rest):
        writes = self.command == "POST" and "create_pr" not in self.query
        repository = self.repository(name, write=writes)
        if repository is None:
            return None
        match rest:
            case ["refs"]:
                refs = {
                    kind: [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in of]
                    for kind, of in (
                        ("branches", repository.heads.items()),
                        ("tags", repository.tags.items()),
                    )
                }
                return self.reply(200, {**refs, "converts": []})
            case ["branch", branch]:
                if branch in repository.heads:
                    return self.reply(409, {"error": "exists"})
                repository.heads[branch] = repository.heads["main"]
                return self.reply(200, {})
        revision = rest[1] if len(rest) > 1 else "main"
        found = repository.find(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        commit, files = found
        match rest:
            case [] | ["revision", _]:
                return self.reply(200, self.info(name, repository, commit, files))
            case ["tree", _]:
                self.query["blobs"] = ["true"]
                entries = []
                for entry in self.info(name, repository, commit, files)["siblings"]:
                    new = {"type": "file", "path": entry["rfilename"], "size": entry["size"]}
                    new["oid"] = entry["blobId"]
                    if "lfs" in entry:
                        lfs = {**entry["lfs"], "oid": entry["lfs"]["sha256"]}
                        new["lfs"] = lfs
                    entries.append(new)
                return self.page(entries)
            case ["preupload", _]:
                told = []
                for entry in json.loads(self.body)["files"]:
                    path = entry["path"]
                    told.append({"path": path, "shouldIgnore": False})
                    told[-1]["uploadMode"] = "lfs" if is_large(path) else "regular"
                    if path in files:
                        sha256 = hashlib.sha256(files[path]).hexdigest()
                        told[-1]["oid"] = sha256 if is_large(path) else blob_id(files[path])
                return self.reply(200, {"files": told})
            case ["tag", _]:
                tag = json.loads(self.body)["tag"]
                if tag in repository.tags:
                    return self.reply(409, {"error": "Tag already exists"})
                repository.tags[tag] = commit
                return self.reply(200, {})
            case ["commit", _]:
                return self.commit(name, repository, revision, commit, dict(files))
        return self.reply(404)

    def batch(self, repository):
        if self.repository(repository.removesuffix(".git"), write=False) is None:
            return None
        objects = []
        for entry in json.loads(self.body)["objects"]:
            if entry["oid"] not in self.hub.large:
                upload = {"href": f"{self.hub.storage}/upload/{entry['oid']}"}
                entry["actions"] = {"upload": upload}
            objects.append(entry)
        return self.reply(200, {"transfer": "basic", "objects": objects})

    def commit(self, name, repository, branch, parent, files):
        """All operations, or none."""
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        wanted = header["value"].get("parentCommit")
        if wanted is not None and wanted != parent:
            return self.refuse(412, message="A commit has happened since.")
        for operation in operations:
            value = operation["value"]
            path = value["path"]
            if operation["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    return self.refuse(400, message="the large file was not uploaded")
                files[path] = self.hub.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    return self.refuse(404, "EntryNotFound", "A file with this name doesn't exist")
        if "create_pr" in self.query:
            number = len(repository.pulls) + 1
            sha = repository.commit(f"refs/pr/{number}", files)
            repository.pulls.append(sha)
            pull = f"{self.hub.address}/{name}/discussions/{number}"
        else:
            sha, pull = repository.commit(branch, files), None
        return self.reply(
            200,
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"{self.hub.address}/{name}/commit/{sha}",
                "pullRequestUrl": pull,
            },
        )

    # files

    def resolve(self, name, revision, path):
        repository = self.repository(name)
        if repository is None:
            return None
        if repository.gated and self.user is None:
            return self.refuse(403, "GatedRepo", "Access is restricted")
        found = repository.find(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        commit, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content, headers = files[path], {"X-Repo-Commit": commit}
        if not is_large(path):
            if self.command == "GET":
                self.hub.downloads.append(f"{name}/{path}")
            return self.send_file(content, {"ETag": f'"{blob_id(content)}"', **headers})
        sha256 = hashlib.sha256(content).hexdigest()
        self.hub.large[sha256], self.hub.places[sha256] = content, f"{name}/{path}"
        headers |= {
            "Location": f"{self.hub.storage}/cdn/{sha256}",
            "X-Linked-ETag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
        }
        return self.reply(302, b"", headers)

    def send_file(self, content, headers):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None:
            return self.reply(200, content, {"Accept-Ranges": "bytes", **headers})
        start, size = int(asked[1]), len(content)
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}", **headers}
        return self.reply(206, content[start:], headers)


@contextlib.contextmanager
def served():
    """Serve a new `Hub`, and its storage at an address of its own as the real one; yield it."""
    hub = Hub()
    handler = type("HandlerOfOne", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.address, hub.storage = (f"http://127.0.0.1:{one.server_address[1]}" for one in servers)
    threads = [
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        for one in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def use_hub(monkeypatch, hub, cache, token=None):
    """Let huggingface_hub, in this process, take the double for the Hub, with an empty cache."""
    constants = huggingface_hub.constants
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "no-token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    huggingface_hub.utils.close_session()


def environment(hub, cache, token=None, **more):
    """Return the environment variables of another process that takes the double for the Hub."""
    named = {
        "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN_PATH": str(cache / "no-token"),
    }  # fmt: skip
    return {**os.environ, **named, **({} if token is None else {"HF_TOKEN": token}), **more}
