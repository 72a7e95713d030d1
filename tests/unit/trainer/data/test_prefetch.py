"""Results that a thread makes ahead: their order, how far ahead, errors in their place, the end of the thread."""

import threading
import traceback
from contextlib import closing

import pytest

from finetune_trainer.data.prefetch import DEPTH, prefetched


@pytest.fixture
def threads():
    """Those that a test starts."""
    before = set(threading.enumerate())
    return lambda: {thread for thread in set(threading.enumerate()) - before if thread.name == "prefetch"}


def test_results_come_in_the_order_of_their_keys_and_are_made_in_another_thread(threads):
    made = list(prefetched(lambda key: (key * key, threading.current_thread().name), range(20)))
    assert made == [(key * key, "prefetch") for key in range(20)]
    assert not threads()


def test_the_thread_is_a_bounded_number_of_results_ahead():
    made = [threading.Event() for _ in range(9)]
    with closing(prefetched(lambda key: made[key].set(), range(9))) as results:
        for key in range(9 - DEPTH - 1):
            next(results)
            assert made[key + DEPTH].wait(60), "it goes on while the caller computes"
            assert not made[key + DEPTH + 1].wait(0.1)


def test_an_error_comes_where_its_result_would_have_come_with_the_place_where_it_was_raised(threads):
    def make(key):
        if key == 3:
            raise ZeroDivisionError("the third")
        return key

    results = prefetched(make, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="the third") as raised:
        next(results)
    assert "in make" in "".join(traceback.format_exception(raised.value))
    assert not threads()


def test_an_error_of_the_keys_is_one_too():
    def keys():
        yield 1
        raise KeyError("second")

    results = prefetched(str, keys())
    assert next(results) == "1"
    with pytest.raises(KeyError, match="second"):
        next(results)


def test_closing_ends_the_thread_though_there_are_keys_without_end(threads):
    def keys():
        while True:
            yield 1

    results = prefetched(str, keys())
    assert next(results) == "1"
    assert threads()
    results.close()
    assert not threads()
