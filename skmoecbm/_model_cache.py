"""Loaded networks, shared by the whole process and bounded in number."""

import contextlib
import functools
import hashlib
import json
import threading
import time
from collections import OrderedDict

import torch

from skmoecbm._allocator import keep_freed_memory
from skmoecbm._batch_probe import BATCH_SIZES, fastest_batch
from skmoecbm._half_tower import half_tower
from skmoecbm._model_network import build_network, file_sha256, tokenizer_sha256
from skmoecbm._model_source import DEMO_NAMES, DEMO_NOTICE, local_folder, locate, read_json
from skmoecbm._precision import (
    HALF_TYPES,
    MIN_COSINE,
    MIN_SPEEDUP,
    N_PROBES,
    SMALL_NETWORK,
    candidates,
    precision_context,
    probe_images,
)
from skmoecbm._validation import one_thread
from skmoecbm._vision_tower import speed_up
from skmoecbm.exceptions import BackboneError

__all__ = ["NETWORKS", "Network", "NetworkCache", "json_sha256"]

CPU_BATCH = 32  # the default of `batch_size`; a pass takes fewer where that is faster


class Network:
    """A loaded model with its tokenizer; variants in precision and resizing share it."""

    def __init__(self, name, revision, device):
        self.source = locate(name, revision)
        self.device = device
        self.module, self.tokenizer, text_config = build_network(self.source)
        self.module.to(device)
        speed_up(self.module.visual)
        text_cfg = self.source.model_cfg["text_cfg"]
        self.n_tokens = text_config.get("vocab_size", text_cfg.get("vocab_size", 49408))
        self.tokenizer_lock = threading.Lock()
        self.n_parameters = sum(weight.numel() for weight in self.module.parameters())
        self.is_small = self.n_parameters < SMALL_NETWORK
        self.size = self._image_size()
        self.dim = self._probe_dim()
        self.content = {
            "model": self.source.model,
            "revision": self.source.revision,
            "weights_sha256": file_sha256(self.source.weights),
            "architecture_sha256": json_sha256([self.source.model_cfg, text_config]),
            "tokenizer_sha256": tokenizer_sha256(self.source),
        }
        self.lexicon, self.notice = read_lexicon(self.source)
        self.variants = {}
        self.lock = threading.Lock()
        self._towers = {}
        self._tower_lock = threading.Lock()
        self._batch_sizes = {}
        self._batch_lock = threading.Lock()

    def _image_size(self):
        size = self.module.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(int(side) for side in size)

    def _probe_dim(self):
        try:
            return self.encode(probe_images(self.size, n=1), "fp32").shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            raise BackboneError(
                f"{self.source.name!r} cannot encode an image of {self.size} pixels: {error}. "
                "Check 'image_size' in its open_clip_config.json."
            ) from error

    def encode(self, pixels, precision):
        """Return the image features, not normalised, on the network's device."""
        with self._pass(precision):
            return self._tower(precision)(pixels.to(self.device)).float()

    def encode_tokens(self, tokens_of, pixels, precision):
        """Return what `tokens_of` makes of the vision tower and the pixels, on its device."""
        with self._pass(precision):
            tower = self._tower(precision)
            visual = tower if isinstance(tower, torch.nn.Module) else self.module.visual
            return tokens_of(visual, pixels.to(self.device))

    @contextlib.contextmanager
    def _pass(self, precision):
        if self.device.type == "cpu" and not self.is_small:
            keep_freed_memory()
        with precision_context(precision, self.device), one_thread(self.is_small):
            yield

    def _tower(self, precision):
        """Return what encodes images in a format, in the context of that format."""
        if precision not in HALF_TYPES:
            return self.module.encode_image
        with self._tower_lock:
            if precision not in self._towers:
                probe = probe_images(self.size, n=1).to(self.device)
                self._towers[precision] = half_tower(self.module, HALF_TYPES[precision], probe)
            return self._towers[precision]

    @functools.cached_property
    def auto_precision(self):
        """The format to embed images in here: float32, or one that is faster and near it.

        Near: the embeddings of a few probe images keep a cosine above `MIN_COSINE`. Faster: timed
        on them, by `MIN_SPEEDUP`. What a processor names says little: of two that name bfloat16,
        one may take a sixth of float32's time and another three times as long.
        """
        formats = candidates(self.device, self.n_parameters)
        if not formats:
            return "fp32"
        exact, seconds = self._timed("fp32")
        best = "fp32"
        limit = seconds / MIN_SPEEDUP
        for precision in formats:
            rows, seconds = self._timed(precision)
            cosine = torch.cosine_similarity(exact, rows).min().item()
            if cosine > MIN_COSINE and seconds < limit:  # False for NaN too
                best, limit = precision, seconds
        with self._tower_lock:  # a second tower that is not taken must not stay in memory
            self._towers = {key: tower for key, tower in self._towers.items() if key == best}
        return best

    def batch_size(self, precision):
        """Return how many images to give it at once: 32, or what a GPU is fastest with."""
        if self.device.type != "cuda":
            return CPU_BATCH
        with self._batch_lock:
            if precision not in self._batch_sizes:
                probe = probe_images(self.size, n=BATCH_SIZES[0])
                self._batch_sizes[precision] = fastest_batch(
                    lambda n: self._seconds_of_pass(probe, n, precision)
                )
                torch.cuda.empty_cache()  # of the largest pass, which may not have fitted
            return self._batch_sizes[precision]

    def _seconds_of_pass(self, probe, n, precision):
        """Return the seconds that a device needs for `n` images; the copies are not counted."""
        pixels = probe.to(self.device).repeat(-(-n // len(probe)), 1, 1, 1)[:n]
        self.encode(pixels, precision).cpu()  # the first pass plans its kernels
        start = time.perf_counter()
        self.encode(pixels, precision).cpu()  # fetching the rows waits for them
        return time.perf_counter() - start

    def _timed(self, precision):
        """Return the probe images' features, float64, and the seconds that they took."""
        self.encode(probe_images(self.size, n=1), precision)  # the first pass plans its kernels
        probe = probe_images(self.size, n=N_PROBES[self.device.type])
        start = time.perf_counter()
        rows = self.encode(probe, precision).cpu()
        return rows.double(), time.perf_counter() - start


class NetworkCache:
    """Networks by key, least recently used first; threads that want the same one load it once."""

    def __init__(self, size):
        self._size = size
        self._lock = threading.Lock()
        self._slots = OrderedDict()  # key -> [lock, network or None]

    def get(self, name, revision, device, make=Network):
        """Return the network that `make` loads, and keep it as the one used last."""
        key = (source_key(name), revision, str(device), make)
        with self._lock:
            slot = self._slots.setdefault(key, [threading.Lock(), None])
            self._slots.move_to_end(key)
        with slot[0]:
            if slot[1] is None:
                try:
                    slot[1] = make(name, revision, device)
                except BaseException:
                    with self._lock:
                        if self._slots.get(key) is slot:
                            del self._slots[key]
                    raise
        network = slot[1]
        with self._lock:
            # a branch and the commit it stood for are one network: a fitted encoder asks for this
            commit = (key[0], network.source.revision, *key[2:])
            if network.source.revision is not None and key in self._slots:
                self._slots.setdefault(commit, slot)
            for alias in [k for k, other in self._slots.items() if other is slot]:
                self._slots.move_to_end(alias)
            self._trim()
        return network

    def resize(self, size):
        """Keep at most `size` networks from now on."""
        with self._lock:
            self._size = size
            self._trim()

    def clear(self):
        """Forget all networks."""
        with self._lock:
            self._slots.clear()

    def _trim(self):
        networks = list(dict.fromkeys(id(s[1]) for s in self._slots.values() if s[1] is not None))
        old = set(networks[: max(0, len(networks) - self._size)])
        for key in [key for key, slot in self._slots.items() if id(slot[1]) in old]:
            del self._slots[key]


NETWORKS = NetworkCache(2)


def source_key(name):
    """Return what tells one source from another: the name, or a folder and its files' dates."""
    if name not in DEMO_NAMES and not name.startswith("local-dir:"):
        return name
    folder = local_folder(name)
    kind = name if name in DEMO_NAMES else "local-dir"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    stats = [(path.name, path.stat()) for path in files if path.is_file()]
    return kind, str(folder), tuple((n, stat.st_mtime_ns, stat.st_size) for n, stat in stats)


def json_sha256(content):
    """Return the sha256, in hex, of the canonical JSON text of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_lexicon(source):
    """Return (lexicon, notice) of a model's folder, None for what it does not state."""
    notice = DEMO_NOTICE if source.model in DEMO_NAMES else None
    path = source.folder / "lexicon.json" if source.folder else None
    if path is None or not path.is_file():
        return None, notice
    content = read_json(path)
    phrases = [*content.get("concepts", ()), *content.get("phrases", ())]
    lexicon = frozenset(" ".join(phrase.lower().split()) for phrase in phrases)
    return lexicon, content.get("notice", notice)
