"""Backbones that give the tokens of a text: one that sums it up, then one for each word piece."""

import json

import numpy as np
import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import text_global_pool

from skmoecbm._model_cache import NETWORKS, json_sha256
from skmoecbm._precision import precision_context
from skmoecbm._validation import one_thread, parameter_error, resolve_device
from skmoecbm.backbones import Backbone, load_backbone
from skmoecbm.exceptions import BackboneError, InputError
from skmoecbm.moe._image_tokens import check_finite
from skmoecbm.moe._text_network import TextNetwork
from skmoecbm.moe._text_source import is_language_model

__all__ = ["load_text_tokens"]

# Part of every fingerprint: raise it when the same weights would give other tokens than before.
_VERSION = 1


class _TextTokens(Backbone):
    """A text model whose answer to a text is a matrix of tokens (1 + L, d).

    Attributes
    ----------
    name, identity, fingerprint, notice
        As of any backbone.
    width : int
        d.
    max_length : int
        Tokens of a text that are read, those of begin and end included.
    longest : int
        How many could be.
    """

    precision = "fp32"

    def _set(self, name, network, content, max_length):
        self.name = name
        self._network = network
        self.max_length = self.context_length = max_length
        self.dim = self.width
        tokens = {"kind": "tokens of texts", "version": _VERSION, "max_length": max_length}
        self.identity = {**json.loads(json.dumps(content)), "tokens": tokens}
        self.fingerprint = json_sha256(self.identity)

    def __repr__(self):
        """Return name, width and length in one line."""
        return (
            f"{type(self).__name__}({self.name!r}, width={self.width}, "
            f"max_length={self.max_length}, device='{self._network.device}')"
        )

    def embed_tokens(self, texts, batch_size):
        """Return the tokens of each text, and how many tokens each had before any were cut.

        Parameters
        ----------
        texts : list of n str
        batch_size : int
            Most texts in one pass; halved, with a warning, when memory runs out.

        Returns
        -------
        tokens : list of n ndarrays of shape (1 + L, d), float32
        lengths : list of n int
        """
        ids, words, lengths = self._read(texts)
        for row, one in enumerate(ids):
            if not one:
                raise InputError(
                    f"The tokenizer of {self.name!r} finds nothing in the text {texts[row]!r:.60}. "
                    "Make it None, a missing text."
                )
        if max((max(one) for one in ids), default=0) >= self._network.n_tokens:
            raise BackboneError(
                f"The tokenizer of {self.name!r} knows words that its network of "
                f"{self._network.n_tokens} tokens does not. Put the tokenizer files that the model "
                "was trained with beside its weights."
            )
        found = [None] * len(texts)
        # Texts of one length go together: there is no padding that could reach a token.
        by_length = {}
        for row, one in enumerate(ids):
            by_length.setdefault(len(one), []).append(row)
        for rows in by_length.values():
            states = self._in_batches(
                self._encode_ids, [(ids[row], words[row]) for row in rows], batch_size
            )
            check_finite(states.reshape(len(rows), -1), "text", self.name, "fp32")
            for row, one in zip(rows, states, strict=True):
                found[row] = np.concatenate([one[:1], one[1:][np.asarray(words[row], dtype=bool)]])
        return found, lengths

    def pieces(self, texts):
        """Return the word pieces of texts, as they are read: a list of str each."""
        tokenizer = getattr(self._network.tokenizer, "tokenizer", self._network.tokenizer)
        ids, words, _ = self._read(texts)
        return [
            [
                tokenizer.decode([one]).strip() or "[space]"
                for one, is_word in zip(row, kept, strict=True)
                if is_word
            ]
            for row, kept in zip(ids, words, strict=True)
        ]

    def _encode_ids(self, batch):
        """Return (n, 1 + T, d): what sums each text up, and the states of all of its ids."""
        network = self._network
        ids = torch.tensor([one for one, _ in batch]).to(network.device)
        words = torch.tensor([one for _, one in batch], dtype=torch.bool).to(network.device)
        with precision_context("fp32", network.device), one_thread(network.is_small):
            summary, states = self._states(ids, words)
            return torch.cat([summary[:, None], states], dim=1)


class LanguageModelTokens(_TextTokens):
    """The last hidden states of a model of transformers."""

    def __init__(self, name, network, max_length):
        self.notice = network.notice
        self.lexicon = None
        self.width = network.width
        self.longest = most = network.max_length
        _check_length(name, max_length, most)
        self._set(name, network, network.content, most if max_length is None else max_length)

    def _read(self, texts):
        tokenizer = self._network.tokenizer
        with self._network.tokenizer_lock:  # it keeps the truncation of a call on itself
            whole = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            cut = tokenizer(
                texts, truncation=True, max_length=self.max_length, return_special_tokens_mask=True
            )
        words = [[not special for special in row] for row in cut["special_tokens_mask"]]
        return cut["input_ids"], words, [len(row) for row in whole]

    def _states(self, ids, words):
        states = self._network.states(ids).float()
        if self._network.is_causal:
            return states[:, -1], states  # only the last token has seen the whole text
        # What begins the text is what was trained to sum it up, where there is such a token.
        share = words.float() / words.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.einsum("nt,ntd->nd", share, states)
        return torch.where(words[:, :1], mean, states[:, 0]), states


class TextTowerTokens(_TextTokens):
    """The states of the text tower of an image-text model, before its projection."""

    def __init__(self, name, backbone, max_length):
        network = backbone._network
        self.notice = backbone.notice
        self.lexicon = backbone.lexicon
        self._is_clips = getattr(network.tokenizer, "tokenizer_mode", "") == "clips"
        self._read_length = self.longest = backbone.context_length
        _check_length(name, max_length, backbone.context_length)
        if self._is_clips and max_length is not None:
            raise parameter_error(
                "TextTokenEncoder",
                "max_length",
                f"None for {name!r}, whose last token sums the text up",
                max_length,
            )
        self._set_tower(network)
        probe = network.tokenizer(["a"]).to(network.device)
        with precision_context("fp32", network.device), one_thread(network.is_small):
            self.width = self._states(probe, None)[1].shape[2]
        content = network.content
        self._set(name, network, content, max_length or backbone.context_length)

    def _set_tower(self, network):
        module = network.module
        self._tower = module if type(module) is open_clip.CLIP else module.text
        pool = getattr(self._tower, "text_pool_type", getattr(self._tower, "pool_type", None))
        if pool == "none":
            raise BackboneError(
                f"The text tower of {network.source.name!r} gives no token that sums a text up. "
                "Take another backbone, such as 'ViT-B-16/openai'."
            )

    def _read(self, texts):
        tokenizer, n = self._network.tokenizer, self._read_length
        lengths = self.count_tokens(texts)
        with self._network.tokenizer_lock:
            rows = tokenizer(texts, context_length=self.max_length)
            inner = getattr(tokenizer, "tokenizer", None)
            filler = 0 if inner is None else inner.pad_token_id or 0
            rows = torch.nn.functional.pad(rows, (0, n - rows.shape[1]), value=filler)
        if inner is None:
            # begin, words, end and what fills: in CLIP's own tokenizer that is a word's number
            place = torch.arange(n)
            words = (place > 0) & (place < rows.argmax(dim=1, keepdim=True))
        else:
            special = torch.tensor(sorted({*inner.all_special_ids} - {inner.unk_token_id}))
            words = ~torch.isin(rows, special)
        return rows.tolist(), words.tolist(), lengths

    def _states(self, ids, words):
        """Return what the tower projects, and its states of all ids: as it pads and masks."""
        tower = self._tower
        if isinstance(tower, HFTextEncoder):
            mask = (ids != tower.config.pad_token_id).long()
            out = tower.transformer(input_ids=ids, attention_mask=mask)
            return tower.pooler(out, mask), out.last_hidden_state
        if isinstance(tower, open_clip.CLIP):
            x = tower.token_embedding(ids) + tower.positional_embedding
            x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask))
            pool, end = tower.text_pool_type, getattr(tower, "text_eos_id", None)
            return text_global_pool(x, ids, pool, eos_token_id=end), x
        x, mask = tower._embeds(ids)
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        if tower.cls_emb is not None:
            return x[:, -1], x[:, :-1]
        end = getattr(tower, "eos_id", None)
        return text_global_pool(x, ids, tower.pool_type, eos_token_id=end), x


def load_text_tokens(name, *, revision, max_length, device):
    """Return the text model of that name, its network from the process-wide cache.

    Parameters
    ----------
    name : str
        See `TextTokenEncoder`.
    revision : str or None
    max_length : int or None
        Most tokens of a text; None is what the model reads.
    device : str or torch.device

    Raises
    ------
    InputError
        If the model does not read so many.
    BackboneError
        If the model cannot be had, or reads no texts.
    """
    if not is_language_model(name, revision):
        backbone = load_backbone(name, revision=revision, precision="fp32", device=device)
        network, kind, source = backbone._network, TextTowerTokens, backbone
    else:
        device = resolve_device(device, "TextTokenEncoder")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        network = source = NETWORKS.get(name, revision, device, TextNetwork)
        kind = LanguageModelTokens
    variant = ("text tokens", name, max_length)
    with network.lock:
        if variant not in network.variants:
            network.variants[variant] = kind(name, source, max_length)
        return network.variants[variant]


def _check_length(name, max_length, most):
    if max_length is not None and max_length > most:
        raise parameter_error(
            "TextTokenEncoder", "max_length", f"at most {most}, which {name!r} reads", max_length
        )
