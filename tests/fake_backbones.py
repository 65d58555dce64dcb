"""Image-text models without a network, for tests: a fixed projection, and a count of its work."""

import hashlib
import uuid

import numpy as np

from skmoecbm._model_cache import json_sha256

DIM = 8


class FakeBackbone:
    """Embeds an image by its mean colours and a text by its hash; counts what it embeds."""

    def __init__(self, name, lexicon=None):
        self.name = name
        self.dim = DIM
        self.image_size = 8
        self.context_length = 77
        self.lexicon = lexicon
        self.notice = "fake" if lexicon else None
        self.identity = {
            "model": name,
            "revision": None,
            "weights_sha256": uuid.uuid4().hex * 2,  # its own: nothing stored by another test
            "architecture_sha256": "0" * 64,
            "tokenizer_sha256": None,
            "preprocessing": {
                "size": [8, 8],
                "mode": "RGB",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "interpolation": "bicubic",
                "resize_mode": "shortest",
                "fill_color": 0,
            },
            "precision": "fp32",
        }
        self.fingerprint = json_sha256(self.identity)
        self.image_calls = []
        self.text_calls = []

    def choose_batch_size(self, batch_size):
        return 32 if batch_size == "auto" else batch_size

    def shape(self, image):
        return image

    def embed_images(self, images, batch_size=32):
        self.image_calls.append(len(images))
        assert all(image.mode == "RGB" for image in images)
        pixels = [np.asarray(image.resize((4, 4)), dtype=np.float64) / 255 for image in images]
        features = np.array([[*p.mean((0, 1)), *p.std((0, 1)), *p[0, 0, :2]] for p in pixels])
        return _unit(features.reshape(-1, DIM) + 0.01)

    def embed_texts(self, texts, batch_size=256):
        self.text_calls.append(list(texts))
        return np.array([fake_text_row(text) for text in texts]).reshape(-1, DIM)

    @property
    def images_embedded(self):
        return sum(self.image_calls)


def fake_text_row(text):
    """The unit vector that a fake backbone gives a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return _unit(np.random.default_rng(seed).normal(size=(1, DIM)))[0]


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
