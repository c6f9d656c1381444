"""Work on a stream in threads: the order stays, and never more is under way than was allowed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import torch


Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    initializer: Callable[[], Any] | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed by threads while the caller is busy.

    Args:
        function: Runs in the threads.
        items: Taken in the caller's thread, when there is room.
        workers: Number of threads.
        ahead: How many items may be under way or wait to be taken.
        initializer: Called at the start of each thread.
    """
    items = iter(items)
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(items, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        # Threads hold files and memory: nobody goes on before they have ended.
        pool.shutdown(cancel_futures=True)


class _Threads:
    """How many calls have asked for single-threaded operations, and what to go back to."""

    lock = Lock()
    users = 0
    before = 1


@contextmanager
def single_threaded_operations() -> Iterator[int]:
    """Let torch compute each operation on one core; yields how many threads it used before.

    The threads of OpenMP are set for each thread that computes, by `torch.set_num_threads(1)`, but those of MKL for the
    process: the last of several users sets them back.
    """
    with _Threads.lock:
        if _Threads.users == 0:
            _Threads.before = torch.get_num_threads()
        _Threads.users += 1
    try:
        yield _Threads.before
    finally:
        with _Threads.lock:
            _Threads.users -= 1
            if _Threads.users == 0:
                torch.set_num_threads(_Threads.before)
