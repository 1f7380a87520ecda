"""Loading ahead: order, bounds, exceptions, and a thread that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.engine.prefetch import prefetched

SECONDS = 10  # in which anything that is going to happen has happened


def threads() -> list[threading.Thread]:
    """The background threads that are alive."""
    return [t for t in threading.enumerate() if t.name.startswith("fedjax-kd-prefetch")]


class StopError(Exception):
    """Raised on purpose."""


@given(st.lists(st.integers()), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_it_is_map(items: list[int], ahead: int):
    assert list(prefetched(lambda n: (n, n), items, ahead)) == [(n, n) for n in items]
    assert not threads()


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_next_is_loaded_while_the_caller_works(ahead: int):
    loaded = [threading.Event() for _ in range(6)]
    for n in prefetched(lambda n: loaded[n].set() or n, range(6), ahead):
        for event in loaded[n : n + ahead + 1]:
            assert event.wait(SECONDS), "while the caller holds result n"


@pytest.mark.parametrize("ahead", [1, 2])
def test_no_more_than_asked_for_is_loaded(ahead: int):
    taken = []
    results = prefetched(lambda n: taken.append(n) or n, count(), ahead)
    for n in range(5):
        assert next(results) == n
        assert len(taken) <= n + 1 + ahead
    results.close()
    assert len(taken) <= 5 + ahead
    assert taken == list(range(len(taken)))


def test_loads_run_in_one_thread_of_their_own():
    names = set(prefetched(lambda n: threading.current_thread().name, range(5), 2))
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_an_exception_comes_where_its_result_would_have():
    def load(n: int) -> int:
        if n == 2:
            raise StopError("item 2")
        return n

    results = prefetched(load, range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(StopError, match="item 2"):
        next(results)
    assert not threads()
    assert list(results) == [], "it is over"


def test_an_exception_of_the_items_comes_in_its_turn():
    def items() -> Iterator[int]:
        yield from (0, 1)
        raise StopError("no item 2")

    seen = []
    with pytest.raises(StopError, match="no item 2"):
        seen.extend(prefetched(str, items(), 3))
    results = prefetched(str, items(), 3)
    assert [next(results), next(results)] == ["0", "1"]
    with pytest.raises(StopError):
        next(results)


@pytest.mark.parametrize("end", ["close", "throw", "forget"])
def test_whatever_ends_the_iteration_ends_the_thread(end: str):
    results = prefetched(lambda n: n, count(), 3)
    next(results)
    assert len(threads()) == 1
    if end == "close":
        results.close()
    elif end == "throw":
        with pytest.raises(KeyboardInterrupt):
            results.throw(KeyboardInterrupt)
    else:
        del results
    assert not threads()


def test_a_caller_that_fails_ends_the_thread():
    def work() -> None:
        for n in prefetched(lambda n: n, count()):
            if n == 1:
                raise StopError

    with pytest.raises(StopError) as raised:
        work()
    del raised  # its traceback holds the loop
    assert not threads()


def test_closing_waits_for_the_load_under_way():
    begun, may_end, taken = threading.Event(), threading.Event(), []

    def load(n: int) -> int:
        taken.append(n)
        if n == 1:
            begun.set()
            assert may_end.wait(SECONDS)
        return n

    results = prefetched(load, count())
    assert next(results) == 0
    assert begun.wait(SECONDS)
    closer = threading.Thread(target=results.close)
    closer.start()
    may_end.set()
    closer.join(SECONDS)
    assert not closer.is_alive()
    assert taken == [0, 1]
    assert not threads()


def test_nothing_runs_before_the_first_result_is_asked_for():
    touched = []
    prefetched(touched.append, range(3))
    assert touched == []
    assert not threads()


def test_it_must_load_ahead():
    with pytest.raises(ValueError, match="ahead is 0, but must be >= 1"):
        prefetched(str, [1], 0)
