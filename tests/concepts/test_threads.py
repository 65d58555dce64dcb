"""Parts side by side: the same results, within the threads that are allowed."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from skmoecbm.concepts import SubmodularSelector
from skmoecbm.concepts._threads import map_ahead, map_threads


def blas_threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


@pytest.mark.parametrize("allowed", [1, 2])
def test_parts_run_on_as_many_threads_as_linear_algebra_may_use(allowed):
    with threadpool_limits(allowed, user_api="blas"):
        before = blas_threads()
        meet = threading.Barrier(max(before), timeout=30)

        def part(i):
            if i < max(before):
                meet.wait()  # passed only where that many parts are under way
            return i, max(blas_threads()), threading.get_ident()

        numbers, inside, where = zip(*map_threads(part, range(40)), strict=True)
        assert numbers == tuple(range(40))
        assert set(inside) == {1}
        assert len(set(where)) == max(before)
        assert blas_threads() == before  # and afterwards all is as it was


def test_few_parts_start_no_thread_and_an_error_comes_through():
    here = threading.get_ident()
    assert {map_threads(lambda i: threading.get_ident(), range(4))[i] for i in range(4)} == {here}
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda i: 1 / (i - 30), range(40))


@pytest.mark.parametrize("allowed", [1, 2])
def test_one_part_is_made_ahead_where_two_threads_are_allowed(allowed):
    with threadpool_limits(allowed, user_api="blas"):
        before = blas_threads()
        made, results = [threading.Event() for _ in range(40)], []

        def part(i):
            made[i].set()
            return i

        for result in map_ahead(part, range(40)):
            results.append(result)
            if max(before) > 1 and result < 39:
                assert made[result + 1].wait(30)  # without being asked for
            else:
                assert not any(event.is_set() for event in made[result + 1 :])
            assert not any(event.is_set() for event in made[result + 2 :])
        assert results == list(range(40))
        assert blas_threads() == before
        assert list(map_ahead(part, [])) == []
        with pytest.raises(ZeroDivisionError):
            list(map_ahead(lambda i: 1 / (i - 30), range(40)))


@pytest.mark.parametrize("relevance", ["mi", "similarity", "auroc", "random"])
def test_the_choice_does_not_depend_on_threads(relevance):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40), 4)
    X = rng.normal(size=(160, 16)) + 2 * rng.normal(size=(40, 16))[y]
    T = rng.normal(size=(1200, 16)).astype(np.float32)
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    incidence = np.arange(40) == (np.arange(1200) % 40)[:, None]
    fits = []
    for allowed in (1, 2):
        with threadpool_limits(allowed, user_api="blas"):
            selector = SubmodularSelector(5, relevance=relevance, random_state=0)
            fits.append(selector.fit(X, y, T, incidence))
    np.testing.assert_array_equal(fits[0].support_, fits[1].support_)
    np.testing.assert_allclose(fits[0].scores_, fits[1].scores_, rtol=1e-5)
