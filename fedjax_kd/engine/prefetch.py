"""Prefetching: a background thread loads the next item while the caller works on this one."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from fedjax_kd.options import checks_options

_T = TypeVar("_T")
_U = TypeVar("_U")


class _End:
    """What comes after the last item."""


_END: Final = _End()


@checks_options
def prefetched(
    load: Callable[[_T], _U], items: Iterable[_T], ahead: int = 1
) -> Generator[_U, None, None]:
    """``map(load, items)`` with the next results loaded by a background thread.

    The thread takes an item and loads it while the caller works on the result before, in the items'
    order, until ``ahead`` results wait; so ``ahead + 1`` results are held at a time. It is started
    by the first ``next``. An exception, of ``load`` or of the items, is raised where its result
    would have come. Whatever ends the iteration (its end, ``close``, an exception, Ctrl-C, the
    end of its last reference) ends the thread, after the one ``load`` that may be under way.

    Args:
      load: called in the background thread, which does not see the caller's context managers (such
        as ``jax.default_device``).
      items: iterated over in the background thread; may be infinite.
      ahead: results that may wait for the caller, >= 1.

    Raises:
      ValueError: if ``ahead`` is less than 1.

    Example:
      >>> list(prefetched(lambda n: n * n, range(5), ahead=2))
      [0, 1, 4, 9, 16]
    """
    return _prefetched(load, iter(items), ahead)


def _prefetched(
    load: Callable[[_T], _U], items: Iterator[_T], ahead: int
) -> Generator[_U, None, None]:
    def load_next() -> _U | _End:
        item = next(items, _END)
        return _END if isinstance(item, _End) else load(item)

    thread = ThreadPoolExecutor(1, "fedjax-kd-prefetch")
    try:
        waiting: deque[Future[_U | _End]] = deque(thread.submit(load_next) for _ in range(ahead))
        while not isinstance(result := waiting.popleft().result(), _End):
            waiting.append(thread.submit(load_next))
            yield result
            del result  # the caller may be done with it, and it may be large
    finally:
        if not sys.is_finalizing():  # else the interpreter has ended the thread, and its queue
            thread.shutdown(wait=True, cancel_futures=True)
