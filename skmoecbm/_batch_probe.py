"""How many images to give a GPU at once: found by doubling."""

__all__ = ["BATCH_SIZES", "fastest_batch", "is_out_of_memory"]

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
# A doubling that gains less than this is not worth the memory.
_MIN_GAIN = 1.05
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate", "alloc_failed")


def fastest_batch(seconds, sizes=BATCH_SIZES):
    """Return the batch size after which doubling no longer pays, or no longer fits.

    Parameters
    ----------
    seconds : callable
        From a number of images to the seconds of one pass over so many; may run out of memory.
    sizes : sequence of int, rising

    Returns
    -------
    int
        One of `sizes`; 1 where the first of them is too much for the memory.
    """
    best, best_rate = 1, 0.0
    for size in sizes:
        try:
            rate = size / seconds(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if rate < _MIN_GAIN * best_rate:
            break
        best, best_rate = size, rate
    return best


def is_out_of_memory(error):
    """Tell whether an error of torch's means that memory ran out, on a GPU or a processor."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower()
    return any(sign in words for sign in _OUT_OF_MEMORY)
