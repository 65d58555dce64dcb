"""Many small products side by side, on the threads that one large product would have had."""

from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import threadpool_info, threadpool_limits

__all__ = ["map_ahead", "map_threads"]

# fewer parts than this are not worth the start of threads
_MANY = 16


def map_threads(function, items):
    """Return what a function gives for each item, in their order.

    Many parts run on as many threads as linear algebra may use (OMP_NUM_THREADS and
    `threadpool_limits` are heeded), each of one thread inside, since what lies between the products
    would else wait for one core. Each part is computed as it would be alone.

    Parameters
    ----------
    function : function of one item
        Safe to run beside itself.
    items : sequence

    Returns
    -------
    list
    """
    n_threads = _allowed(items)
    if n_threads == 1:
        return [function(item) for item in items]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))


def map_ahead(function, items):
    """Yield what a function gives for each item, the next one made while the last is used.

    For a use of many short steps, which in several threads would only hand Python's lock to and
    fro. Where linear algebra may use one thread, so does this.

    Parameters
    ----------
    function, items
        As in `map_threads`.

    Yields
    ------
    object
    """
    if _allowed(items) == 1:
        yield from map(function, items)
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as pool:
        coming = pool.submit(function, items[0])
        for item in items[1:]:
            result, coming = coming.result(), pool.submit(function, item)
            yield result
        yield coming.result()


def _allowed(items):
    """Return how many threads linear algebra may use; 1 where the items are few."""
    if len(items) < _MANY:
        return 1
    pools = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    return min(max(pools, default=1), len(items))
