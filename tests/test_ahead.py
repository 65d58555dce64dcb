"""Work ahead in threads: order, bound, errors in their turn, and no thread left behind."""

import threading
from contextlib import closing

import pytest

from skmoecbm import _ahead
from skmoecbm._ahead import ahead, n_decoders


def own_threads():
    return [t for t in threading.enumerate() if t.name.startswith("skmoecbm-ahead")]


@pytest.mark.parametrize("n_threads", [0, 1, 3])
@pytest.mark.parametrize("n_waiting", [1, 4, 100])
def test_results_come_in_order(n_threads, n_waiting):
    gate = threading.Event()

    def square(i):
        if i == 0 and n_threads > 1 and n_waiting > 1:
            gate.wait(5)  # the first is done last
        elif i == 1:
            gate.set()
        return i * i

    assert list(ahead(square, range(20), n_threads, n_waiting)) == [i * i for i in range(20)]
    assert not own_threads()


def test_nothing_is_taken_before_it_is_asked_for_and_no_more_than_the_bound():
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    results = ahead(str, items(), 2, 5)
    assert taken == []
    assert next(results) == "0"
    assert len(taken) == 5
    assert next(results) == "1"
    assert len(taken) == 6
    results.close()
    assert len(taken) == 6


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_error_comes_in_its_turn_and_leaves_no_thread(n_threads):
    def work(i):
        if i >= 3:
            raise ValueError(f"item {i}")
        return i

    seen = []
    with pytest.raises(ValueError, match="item 3"):
        seen.extend(ahead(work, range(10), n_threads, 8))
    assert not own_threads()
    results = ahead(work, range(10), n_threads, 8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_closing_drops_what_has_not_begun_and_waits_for_what_has(error):
    begun, done, go = [], [], threading.Event()

    def work(i):
        begun.append(i)
        if i:
            go.wait(5)
        done.append(i)
        return i

    with pytest.raises(error), closing(ahead(work, range(40), 2, 20)) as results:
        next(results)
        threading.Timer(0.05, go.set).start()
        raise error
    assert not own_threads()
    assert sorted(begun) == sorted(done)
    assert len(begun) < 20


def test_an_error_of_the_source_leaves_no_thread():
    def items():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ahead(str, items(), 2, 4))
    assert not own_threads()


def test_some_items_stay_in_the_callers_thread():
    def where(i):
        if i == 4:
            raise ValueError("four")
        return threading.current_thread() is threading.main_thread()

    results = ahead(where, range(6), 2, 6, here=lambda i: i % 2 == 0)
    assert [next(results) for _ in range(4)] == [True, False, True, False]
    with pytest.raises(ValueError, match="four"):
        next(results)


@pytest.mark.parametrize(
    ("threads", "cores", "expected"),
    [(1, 16, 0), (2, 2, 2), (4, 1, 0), (64, 64, 8), (4, None, 0)],
)
def test_as_many_decoders_as_torch_may_use(monkeypatch, threads, cores, expected):
    monkeypatch.setattr(_ahead.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(_ahead.os, "cpu_count", lambda: cores)
    assert n_decoders() == expected
