"""Work on a stream in threads: the order stays, and no more items are under way than was allowed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from threading import Lock, Thread
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

    An error of an item is raised once all threads have ended; after Ctrl-C nothing is waited for.
    """
    items = iter(items)
    tasks: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()
    # Daemons: the interpreter would wait for those of an executor, and a stalled read may take minutes.
    threads = [Thread(target=_work, args=(function, tasks), daemon=True) for _ in range(workers)]

    def submit(item: Item) -> Future[Result]:
        future: Future[Result] = Future()
        tasks.put((future, item))
        return future

    pending: deque[Future[Result]] = deque()
    must_wait = True
    try:
        for thread in threads:
            thread.start()
        pending.extend(submit(item) for item in islice(items, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(submit(item) for item in islice(items, 1))
            yield result
    except KeyboardInterrupt:
        must_wait = False
        raise
    finally:
        for future in pending:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        # Threads hold files and memory: the caller goes on once they have ended.
        for thread in threads if must_wait else ():
            if thread.ident is not None:
                thread.join()


def _work(function: Callable[[Item], Result], tasks: "SimpleQueue[tuple[Future[Result], Item] | None]") -> None:
    torch.set_num_threads(1)
    while (task := tasks.get()) is not None:
        future, item = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)
        del task, future, item  # not to hold memory while there is nothing to do


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
