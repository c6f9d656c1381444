"""Work on a stream in threads: the order stays, and never more is under way than was allowed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Lock
from typing import TypeVar

import torch


Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed by threads while the caller is busy.

    The threads compute on one core each: on several, sums of torch would round otherwise.

    Args:
        function: Runs in the threads.
        items: Taken in the caller's thread, when there is room.
        workers: Number of threads.
        ahead: How many items may be under way or wait to be taken.
    """
    items = iter(items)
    pool = ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1))
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
    """How many users want them set, and what to go back to."""

    lock = Lock()
    users = 0
    before = 1


@contextmanager
def restored_threads() -> Iterator[int]:
    """Give torch back its threads at the end; yields their number.

    `torch.set_num_threads` sets those of OpenMP for the thread that calls it, but those of MKL for the whole process:
    the last of several users sets them back.
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
