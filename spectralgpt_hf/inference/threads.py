"""Process a stream in threads, in order and with a limited number of items in progress."""

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
    """Yield `function(item)` for each item, in order. Threads compute the results ahead of the caller.

    Each thread computes on one core, because sums of torch round differently on several. If an item fails, its error is
    raised after all threads have ended. After Ctrl-C, threads are not waited for.

    Args:
        function: Called in the threads.
        items: Items, which are taken in the caller's thread.
        workers: Number of threads.
        ahead: Largest number of items that are computed or wait for the caller.
    """
    items = iter(items)
    tasks: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()
    # Daemon threads, because the interpreter would wait for those of an executor, and a stalled read can take minutes.
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
        # Threads hold files and memory, so the caller continues after they have ended.
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
        del task, future, item  # releases memory while the thread waits


class _Threads:
    """The number of users of `restored_threads`, and the number of threads to restore."""

    lock = Lock()
    users = 0
    before = 1


@contextmanager
def restored_threads() -> Iterator[int]:
    """Yield the number of torch's threads, and restore it at the end.

    `torch.set_num_threads` sets the threads of OpenMP for the calling thread, but those of MKL for the whole process.
    Therefore the last of several simultaneous users restores them.
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
