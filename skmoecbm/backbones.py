"""Image-text models by name: images and texts in, unit vectors out."""

import json
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from PIL import Image

from skmoecbm._ahead import n_decoders
from skmoecbm._batch_probe import is_out_of_memory
from skmoecbm._model_cache import NETWORKS, json_sha256
from skmoecbm._pixels import Preprocessing, move_levels, scale_levels
from skmoecbm._precision import precision_context
from skmoecbm._validation import (
    check_choice,
    check_number,
    one_thread,
    parameter_error,
    resolve_device,
)
from skmoecbm.exceptions import BackboneError, InputError, SkmoecbmWarning

__all__ = ["Backbone", "clear_backbones", "load_backbone", "set_backbone_cache_size"]

logger = logging.getLogger("skmoecbm")

RESIZE_MODES = {"crop": "shortest", "pad": "longest", "squash": "squash"}
# Pixels in one forward pass on a CPU: eight images of 224 x 224. With more, activations leave the
# processor's cache and glibc fetches fresh pages for every layer.
CPU_PIXELS = 8 * 224 * 224


class Backbone:
    """An image-text model that turns images and texts into unit vectors.

    Made by `load_backbone`, which keeps the network in a process-wide cache.

    Attributes
    ----------
    name : str
        The name it was loaded by.
    dim : int
        Length d of an embedding.
    image_size : int
        Side in pixels of what the network sees; the longer one where it is not square.
    context_length : int
        Tokens of a text that the network reads.
    precision : {"fp32", "fp32-medium", "bf16", "fp16"}
        The format that images are really embedded in; "fp32-medium" is float32 whose matrix
        products torch may round (`torch.set_float32_matmul_precision`). Texts are few and
        always embedded in float32.
    identity : dict
        What decides the numbers, JSON-safe: model, revision, sha256 of weights, architecture
        and tokenizer, preprocessing, precision. No local path and no device.
    fingerprint : str
        sha256 of `identity`, in hex.
    lexicon : frozenset of str or None
        The phrases a small model was trained on, lower-case; None for a model of free text.
    notice : str or None
        A warning that must go with every result.

    Notes
    -----
    A row depends on its own image, up to float noise: matrix libraries round differently for
    different batch sizes, about 1e-7 in float32 and 1e-3 in bf16 and fp16.
    On CUDA, "fp32" leaves convolutions to cuDNN's own setting (TF32 by default).
    """

    def __init__(self, name, network, precision, resize):
        self.name = name
        self.precision = precision
        self.dim = network.dim
        self.image_size = max(network.size)
        self.context_length = int(network.tokenizer.context_length)
        self.lexicon = network.lexicon
        self.notice = network.notice
        self._network = network
        settings = merge_preprocess_dict(PreprocessCfg(), network.source.preprocess_cfg)
        settings = {**settings, "size": list(network.size), "resize_mode": RESIZE_MODES[resize]}
        try:
            self._preprocessing = Preprocessing(settings)
        except (AssertionError, TypeError, ValueError) as error:
            raise BackboneError(
                f"The 'preprocess_cfg' of {network.source.name!r} is not one that open_clip "
                f"knows: {settings}."
            ) from error
        self.identity = json.loads(
            json.dumps({**network.content, "preprocessing": settings, "precision": precision})
        )
        self.fingerprint = json_sha256(self.identity)

    def __repr__(self):
        """Return name, size and format in one line."""
        return (
            f"Backbone({self.name!r}, dim={self.dim}, image_size={self.image_size}, "
            f"precision={self.precision!r}, device='{self._network.device}')"
        )

    def embed_images(self, images, batch_size=32):
        """Embed images.

        Parameters
        ----------
        images : sequence of n PIL.Image.Image
            RGB; another mode is converted by PIL.
        batch_size : int or "auto"
            Most images in one pass; on a CPU fewer go in at once where that is faster. Halved,
            with a warning, when memory runs out. "auto" as in `choose_batch_size`.

        Returns
        -------
        ndarray of shape (n, d), float32
            Rows of length 1.

        Raises
        ------
        InputError
            If an item is not a PIL image.
        BackboneError
            If one image is too much for the memory, or an embedding is not finite.
        """
        size = self.choose_batch_size(batch_size)
        images = list(images)
        for row, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise InputError(
                    f"image {row} must be a PIL image. Got {type(image).__name__} instead. "
                    "skmoecbm.images.load_image makes one of a path or an array."
                )
        if self._network.device.type == "cpu":
            size = min(size, max(1, CPU_PIXELS // self.image_size**2))

        return self._normalise(self._in_batches(self._encode, images, size), "image")

    def embed_texts(self, texts, batch_size=256):
        """Embed texts, in float32 whatever the precision of the images.

        Parameters
        ----------
        texts : sequence of n str
            One that is longer than the model reads is cut, with a warning that names it.
        batch_size : int
            Most texts in one pass; halved, with a warning, when memory runs out.

        Returns
        -------
        ndarray of shape (n, d), float32
            Rows of length 1.

        Raises
        ------
        InputError
            If an item is not a string.
        BackboneError
            If an embedding is not finite.
        """
        check_number("embed_texts", "batch_size", batch_size, low=1, integer=True)
        if isinstance(texts, str):
            raise parameter_error("embed_texts", "texts", "a list of strings", texts)
        texts = list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {row} must be a string. Got {type(text).__name__} instead.")
        network = self._network
        self._warn_long(texts)
        # A Hugging Face tokenizer keeps the padding of a call on itself.
        with network.tokenizer_lock:
            tokens = list(network.tokenizer(texts)) if texts else []
        if any(int(row.max()) >= network.n_tokens for row in tokens):
            raise BackboneError(
                f"The tokenizer of {self.name!r} knows words that its text tower of "
                f"{network.n_tokens} tokens does not. Put the tokenizer files that the model was "
                "trained with beside its weights."
            )

        def encode(batch):
            with precision_context("fp32", network.device), one_thread(network.is_small):
                return network.module.encode_text(torch.stack(batch).to(network.device))

        return self._normalise(self._in_batches(encode, tokens, int(batch_size)), "text")

    def count_tokens(self, texts):
        """Count the tokens of texts before any is cut, those of begin and end included.

        Parameters
        ----------
        texts : sequence of n str

        Returns
        -------
        list of n int
            Those above `context_length` are cut by `embed_texts`.
        """
        texts = list(texts)
        tokenizer = self._network.tokenizer
        with self._network.tokenizer_lock:
            if not hasattr(tokenizer, "tokenizer"):
                return [len(tokenizer.encode(text)) + 2 for text in texts]
            cleaned = [tokenizer.clean_fn(text) for text in texts]
            rows = tokenizer.tokenizer(cleaned, truncation=False).input_ids if texts else []
            return [len(row) for row in rows]

    def choose_batch_size(self, batch_size):
        """Return a number of images for one pass; what `batch_size` is, unless it is "auto".

        "auto" is 32 on a CPU. On a GPU it is found once for a network and format: from 8 on it is
        doubled while that makes an image cheaper by a twentieth and fits the memory, up to 512.
        """
        if isinstance(batch_size, str) and batch_size == "auto":
            return self._network.batch_size(self.precision)
        check_number("embed_images", "batch_size", batch_size, low=1, integer=True, auto=True)
        return int(batch_size)

    def shape(self, image):
        """Return an image as RGB and of the size that the network sees, a `PIL.Image` again.

        `embed_images` gives for it what it gives for `image`; so images may be resized in other
        threads, or earlier.
        """
        return self._preprocessing.shape(image)

    def _encode(self, images):
        """Return the features of images, as they leave the network, on its device."""
        return self._network.encode(self._pixels(images), self.precision)

    def _pixels(self, images):
        """Return the preprocessed images, float32 (n, 3, h, w), on the network's device."""
        workers = min(n_decoders(), len(images))
        shape = self._preprocessing.levels
        if workers < 2 or all(image.size == self._network.size[::-1] for image in images):
            levels = [shape(image) for image in images]
        else:
            with ThreadPoolExecutor(workers) as pool:  # PIL resizes without the interpreter's lock
                levels = list(pool.map(shape, images))
        levels = move_levels(torch.from_numpy(np.stack(levels)), self._network.device)
        return scale_levels(levels, self._preprocessing.mean, self._preprocessing.std)

    def _in_batches(self, encode, items, size):
        """Return the features of all items, the batch halved whenever memory runs out."""
        parts = []
        start = 0
        while start < len(items):
            try:
                parts.append(encode(items[start : start + size]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise BackboneError(
                        f"Memory ran out on a single input of {self.name!r}. Free some memory, "
                        "use device='cpu' or take a smaller backbone."
                    ) from error
                size = max(1, min(size, len(items) - start) // 2)
            else:
                start += size
                continue
            # Out of the handler, so that the error no longer holds the activations.
            if self._network.device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(
                f"Memory ran out in {self.name!r}: going on with batch_size={size}. "
                f"Pass batch_size={size} or less to be spared the failed attempt.",
                SkmoecbmWarning,
                stacklevel=3,
            )
        parts = parts or [torch.empty(0, self.dim)]
        # Fetched at the end: a GPU works on while the next batch is made ready here.
        return torch.cat([part.float() for part in parts]).cpu().numpy()

    def _normalise(self, features, kind):
        rows = features.astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
        if bad.size:
            raise BackboneError(
                f"{self.name!r} gave no finite embedding for {bad.size} of {len(rows)} {kind}s, "
                f"the first of them {kind} {bad[0]} (precision {self.precision!r}). "
                "Try precision='fp32'; if that fails too, the weights are damaged."
            )
        return (rows / norms).astype(np.float32)

    def _warn_long(self, texts):
        lengths = self.count_tokens(texts)
        long = [text for text, n in zip(texts, lengths, strict=True) if n > self.context_length]
        if long:
            shown = ", ".join(
                repr(text if len(text) <= 80 else text[:77] + "...") for text in long[:3]
            )
            warnings.warn(
                f"{len(long)} of {len(texts)} texts are longer than the {self.context_length} "
                f"tokens that {self.name!r} reads, and were cut: {shown}"
                f"{', ...' if len(long) > 3 else ''}. Shorten them.",
                SkmoecbmWarning,
                stacklevel=3,
            )


def load_backbone(name, *, revision=None, precision="auto", resize="crop", device="auto"):
    """Return the backbone of that name, from the process-wide cache where it is there.

    Parameters
    ----------
    name : str
        "model/pretrained" as `open_clip.list_pretrained` lists them ("ViT-B-16/openai"),
        "hf-hub:org/repo", "local-dir:path" (a folder in open_clip's layout), "demo-general" or
        "demo-structures". Only the first two may use the network, and only for files that
        the Hugging Face cache does not hold.
    revision : str or None
        Commit, tag or branch of the Hub repository; the commit is kept in the identity.
    precision : {"auto", "fp32", "fp32-medium", "bf16", "fp16"}
        "auto" times the formats that this device names on a few probe images and takes the
        fastest whose embeddings keep a cosine above 0.999 to those in float32, which it must
        beat by a quarter; networks below 20 million weights stay in float32. Another machine
        may choose otherwise: name a format for the same bits everywhere. "fp16" needs CUDA,
        "fp32-medium" is float32 whose products torch may round.
    resize : {"crop", "pad", "squash"}
        How an image meets the network's shape, with the model's own size, mean, deviation
        and interpolation: the short side is fitted and the middle cut out; the long side is
        fitted and black added; or both sides are fitted.
    device : {"auto", "cpu", "cuda", "cuda:N"} or torch.device
        "auto" takes CUDA where torch sees it.

    Returns
    -------
    Backbone

    Raises
    ------
    InputError
        If a parameter is not one of these.
    BackboneError
        If the model is unknown, or cannot be had or loaded: weights that were not loaded
        are an error, never random numbers.

    References
    ----------
    Radford et al. (2021), "Learning transferable visual models from natural language
    supervision", section 2: the two encoders; their embeddings are normalised here.

    Examples
    --------
    >>> from skmoecbm.backbones import load_backbone
    >>> backbone = load_backbone("demo-general")
    >>> backbone.embed_texts(["hair", "no hair"]).shape
    (2, 64)
    """
    if not isinstance(name, str):
        raise parameter_error("load_backbone", "name", "a string", name)
    if revision is not None and not isinstance(revision, str):
        raise parameter_error("load_backbone", "revision", "a string or None", revision)
    formats = ("auto", "fp32", "fp32-medium", "bf16", "fp16")
    check_choice("load_backbone", "precision", precision, formats)
    check_choice("load_backbone", "resize", resize, tuple(RESIZE_MODES))
    device = resolve_device(device, "load_backbone")
    if precision == "fp16" and device.type != "cuda":
        raise parameter_error(
            "load_backbone", "precision", f"'auto', 'fp32' or 'bf16' on {device.type}", precision
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    network = NETWORKS.get(name, revision, device)
    with network.lock:
        actual = network.auto_precision if precision == "auto" else precision
        variant = (name, actual, resize)
        if variant not in network.variants:
            network.variants[variant] = Backbone(name, network, actual, resize)
        backbone = network.variants[variant]
    _log_notice(backbone.notice)
    return backbone


def clear_backbones():
    """Forget the cached networks; a `Backbone` that is still held keeps working."""
    NETWORKS.clear()


def set_backbone_cache_size(n):
    """Keep at most `n` networks in memory, the last ones used; 0 keeps none.

    Parameters
    ----------
    n : int
        2 unless told otherwise. Variants of a network in `precision` and `resize` share it.
    """
    check_number("set_backbone_cache_size", "n", n, low=0, integer=True)
    NETWORKS.resize(int(n))


_notices = set()


def _log_notice(notice):
    # Through logging, where a user can silence it; Python prints it where nobody listens.
    if notice is not None and notice not in _notices:
        _notices.add(notice)
        logger.warning(notice, extra={"is_notice": True})
