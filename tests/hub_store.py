"""What the double of the Hugging Face Hub holds, has seen, and how it is to fail."""

import hashlib
import re


def commit_of(files, parent=""):
    """Return a made-up commit hash for {path: bytes}."""
    digest = hashlib.sha1(parent.encode())
    for path in sorted(files):
        digest.update(path.encode() + files[path])
    return digest.hexdigest()


def files_of(folder):
    """Return {name: bytes} of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def is_large(path):
    """Return whether the double keeps a file as a large one, as the Hub does by its ending."""
    return path.endswith((".safetensors", ".png", ".bin"))


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository(dict):
    """Branch or tag -> {path: bytes}, with the commits behind them."""

    def __init__(self, revisions=(), private=False):
        super().__init__(revisions)
        self.private = private
        self.gated = False
        self.tags = {}
        self.heads = {name: commit_of(files) for name, files in self.items()}
        self.commits = {commit_of(files): files for files in self.values()}
        self.pulls = []

    def commit(self, branch, files):
        sha = commit_of(files, self.heads.get(branch, ""))
        self.commits[sha] = self[branch] = files
        self.heads[branch] = sha
        return sha

    def find(self, revision):
        """Return (commit, files) of a branch, tag or commit, or None."""
        commit = self.heads.get(revision) or self.tags.get(revision) or revision
        return (commit, self.commits[commit]) if commit in self.commits else None

    def front_matter(self, files):
        import yaml

        found = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
        return (yaml.safe_load(found[1]) if found else None) or {}


class Repositories(dict):
    """Name -> `Repository`, that of plain {revision: {path: bytes}} made when it is put in."""

    def __setitem__(self, name, value):
        super().__setitem__(name, value if isinstance(value, Repository) else Repository(value))


class Hub:
    """What the double holds, has seen, and how it is to fail."""

    def __init__(self):
        self.repositories = Repositories()
        self.tokens = {}  # token -> user
        self.large = {}  # sha256 -> bytes
        self.places = {}  # sha256 -> "user/repo/path"
        self.requests = []  # (method, path with query, headers)
        self.downloads = []  # "user/repo/path" of each body sent
        self.faults = []
        self.address = self.storage = None

    def fail(
        self, method, pattern, *, status=None, times=1, headers=None, body=b"{}", how="status"
    ):
        """Let requests fail: by a status, "cut" in the middle, or done but "unanswered"."""
        how = how if status is None else "status"
        self.faults.append(
            {"method": method, "pattern": re.compile(pattern), "status": status, "times": times,
             "headers": headers or {}, "body": body, "how": how}
        )  # fmt: skip

    def fault(self, method, path, hows):
        for fault in self.faults:
            if (
                fault["times"] > 0
                and fault["how"] in hows
                and fault["method"] == method
                and fault["pattern"].search(path)
            ):
                fault["times"] -= 1
                return fault
        return None

    def seen(self, method, pattern):
        """Return the headers of each such request, oldest first."""
        return [h for m, path, h in self.requests if m == method and re.search(pattern, path)]
