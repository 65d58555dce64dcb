"""Work done in threads a little ahead of who asks for it."""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

__all__ = ["ahead", "n_decoders"]

_MOST_DECODERS = 8


def n_decoders():
    """Return how many threads may decode images beside a network: 0 where none helps.

    As many as torch may use, up to eight; so a process that was told to use one thread
    (`OMP_NUM_THREADS=1`, a worker of joblib's) starts none, and neither does one on one core.
    """
    able = min(torch.get_num_threads(), os.cpu_count() or 1, _MOST_DECODERS)
    return able if able > 1 else 0


def ahead(function, items, n_threads, n_waiting, here=None):
    """Yield `function(item)` in order, computed in threads before it is asked for.

    Parameters
    ----------
    function : callable
        Its errors are raised where its result would have been yielded.
    items : iterable
        Taken in the thread of who asks.
    n_threads : int
        0 computes each result when it is asked for.
    n_waiting : int
        Most results that are there, or under way, and not asked for yet.
    here : callable, default=None
        Tells which items may not leave this thread; they are computed when they are taken.

    Yields
    ------
    object

    Notes
    -----
    When the generator ends, fails or is closed, what has not begun is dropped and what has is
    waited for: no thread stays behind. Close it (`contextlib.closing`) where an error may come
    between two results.
    """
    if n_threads < 1:
        yield from map(function, items)
        return
    items = iter(items)
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="skmoecbm-ahead")
    waiting = deque()
    try:
        while True:
            for item in islice(items, max(1, n_waiting) - len(waiting)):
                run = _at_once if here is not None and here(item) else pool.submit
                waiting.append(run(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _at_once(function, item):
    """Return what `ThreadPoolExecutor.submit` would, already done, in this thread."""
    future = Future()
    try:
        future.set_result(function(item))
    except Exception as error:  # raised in its turn, by result()
        future.set_exception(error)
    return future
