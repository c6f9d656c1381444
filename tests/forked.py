"""Run a function in a copy of this process, which may be killed: a new process would import everything again."""

import multiprocessing
from collections.abc import Callable

import torch


def run_forked(function: Callable[..., object], *arguments: object) -> int:
    """Return how the process ended: 0, 1 after an exception, or the negative number of the signal that killed it."""

    def run() -> None:
        torch.set_num_threads(1)  # the threads of this process do not exist in its copy
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(300)
    process.kill()  # only if it still runs
    process.join()
    assert process.exitcode is not None
    return process.exitcode
