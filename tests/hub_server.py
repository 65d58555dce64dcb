"""A Hub on the loopback interface, just large enough for snapshot_download and hf_hub_download."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def commit_of(files):
    """Return a made-up commit hash for {path: bytes}."""
    digest = hashlib.sha1()
    for path in sorted(files):
        digest.update(path.encode() + files[path])
    return digest.hexdigest()


def files_of(folder):
    """Return {name: bytes} of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextlib.contextmanager
def serve(repositories):
    """Serve {repository: {revision: {path: bytes}}}; yield (address, list of downloaded paths)."""
    downloads = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def files_at(self, repository, revision):
            revisions = repositories.get(repository)
            if revisions is None:
                self.reply(404, b"{}", X_Error_Code="RepoNotFound")
                return None
            for name, files in revisions.items():
                if revision in (name, commit_of(files)):
                    return files
            self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            return None

        def do_GET(self):
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[:2] == ["api", "models"]:
                repository = "/".join(parts[2:4])
                revision = parts[5] if len(parts) > 5 else "main"
                files = self.files_at(repository, revision)
                if files is None:
                    return
                if parts[4:5] == ["tree"]:
                    body = [
                        {
                            "type": "file", "path": path, "size": len(content),
                            "oid": hashlib.sha1(content).hexdigest(),
                        }
                        for path, content in files.items()
                    ]  # fmt: skip
                else:
                    body = {
                        "id": repository, "sha": commit_of(files),
                        "siblings": [{"rfilename": path} for path in files],
                    }  # fmt: skip
                self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
                return
            repository, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            files = self.files_at(repository, revision)
            if files is None:
                return
            if path not in files:
                self.reply(404, b"", X_Error_Code="EntryNotFound")
                return
            if self.command == "GET":
                downloads.append(f"{repository}/{path}")
            self.reply(
                200,
                files[path],
                ETag=f'"{hashlib.sha1(files[path]).hexdigest()}"',
                X_Repo_Commit=commit_of(files),
            )

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", downloads
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
