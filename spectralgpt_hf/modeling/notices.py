# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Warnings that point at the caller's own line, and that a thread or a worker process can pass to its caller.

Python records warnings for the whole process: the warnings of one thread can neither be caught separately nor be
distinguished from those of other threads.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


# Frames of these packages are passed over: a warning is about the line that called them.
_PASSED_OVER = {__name__.partition(".")[0], "spectralgpt_cli", "transformers", "torch", "contextlib", "threading"}

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def warn(text: str) -> None:
    """Raise a `UserWarning` at the line outside of this package that led here, or hand it to `collected_warnings`."""
    collected = _collected.get()
    if collected is not None:
        collected.append(text)
        return
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_OVER:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the texts of `warn` in this thread instead of raising warnings."""
    texts: list[str] = []
    token = _collected.set(texts)
    try:
        yield texts
    finally:
        _collected.reset(token)


def warn_of_new(texts: Iterable[str], seen: set[str]) -> None:
    """Warn of those texts that were not seen before, and note them in `seen`."""
    for text in texts:
        if text not in seen:
            seen.add(text)
            warn(text)
