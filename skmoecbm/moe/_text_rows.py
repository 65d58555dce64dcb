"""Tokens of texts by way of the store, which knows rows of one width and not texts of one length.

A text lies there as pages of 16 tokens. Each page begins with how many tokens the text has, and how
many it had before it was cut; so a look at the first pages tells which others to ask for. A text
of which a page is gone, or damaged, is encoded again.
"""

import numpy as np

from skmoecbm._encoder_rows import text_key, turn
from skmoecbm._progress import progress

__all__ = ["PAGE", "text_token_rows"]

PAGE = 16  # tokens: on average half a page of a text is empty
_HEAD = 2  # numbers in front of the tokens of a page; float32 counts to 16 million
_CHUNK = 128  # texts that are encoded and stored under one hold of the lock


def text_token_rows(model, store, texts, *, device, batch_size, verbose):
    """Return the tokens of texts.

    Parameters
    ----------
    model : text model of `load_text_tokens`
    store : EmbeddingStore
    texts : list of n str or None
    device : str
    batch_size : int
    verbose : bool

    Returns
    -------
    values : ndarray of shape (S, d), float32
        Tokens of all texts, one after the other; none of a text that is None.
    offsets : ndarray of shape (n + 1,), int64
    lengths : ndarray of shape (n,), int64
        Tokens of each text before any were cut; 0 where it is None.
    """
    first = {}
    for text in texts:
        if text is not None:
            first.setdefault(text_key(text), text)
    found = _read(store, model, list(first))
    misses = [key for key in first if key not in found]
    with progress(len(misses), unit="text", name=model.name, verbose=verbose) as bar:
        for start in range(0, len(misses), _CHUNK):
            chunk = misses[start : start + _CHUNK]
            with turn(store.folder, model.fingerprint, device):
                found |= _read(store, model, chunk)  # another process may have been here
                todo = [key for key in chunk if key not in found]
                if todo:
                    made = model.embed_tokens([first[key] for key in todo], batch_size)
                    found |= dict(zip(todo, zip(*made, strict=True), strict=True))
                    _write(store, model, {key: found[key] for key in todo})
            bar.update(len(chunk))
    none = (np.empty((0, model.width), dtype=np.float32), 0)
    rows = [none if text is None else found[text_key(text)] for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens, _ in rows])])
    values = np.concatenate([tokens for tokens, _ in rows])
    return values, offsets.astype(np.int64), np.array([length for _, length in rows], np.int64)


def _page_key(key, page):
    return f"{key}/{page}"


def _read(store, model, keys):
    """Return {key: (tokens, length)} of the texts that are whole in the store."""
    if not keys:
        return {}
    there, pages = store.get(model.fingerprint, [_page_key(key, 0) for key in keys])
    firsts = {key: row for key, row, is_there in zip(keys, pages, there, strict=True) if is_there}
    more = [
        (key, page) for key, row in firsts.items() for page in range(1, -(-int(row[0]) // PAGE))
    ]
    rest = {key: [] for key in firsts}
    if more:
        there, pages = store.get(model.fingerprint, [_page_key(*place) for place in more])
        for (key, _), row, is_there in zip(more, pages, there, strict=True):
            rest[key].append(row if is_there else None)
    found = {}
    for key, row in firsts.items():
        rows = [row, *rest[key]]
        if all(one is not None for one in rows):
            tokens = np.stack(rows)[:, _HEAD:].reshape(-1, model.width)
            found[key] = tokens[: int(row[0])], int(row[1])
    return found


def _write(store, model, tokens):
    """Store {key: (tokens, length)}."""
    keys, pages = [], []
    for key, (rows, length) in tokens.items():
        n = -(-len(rows) // PAGE)
        padded = np.zeros((n * PAGE, model.width), dtype=np.float32)
        padded[: len(rows)] = rows
        head = np.full((n, _HEAD), [len(rows), length], dtype=np.float32)
        pages.append(np.concatenate([head, padded.reshape(n, -1)], axis=1))
        keys += [_page_key(key, page) for page in range(n)]
    store.put(model.fingerprint, keys, np.concatenate(pages), label=f"{model.name}, tokens")
