"""All rows of the suite, by name."""

from collections.abc import Callable

from . import inference, loading, scenes, startup, training
from .measuring import Setting, Work


ROWS: dict[str, Callable[[Setting], Work]] = {
    **training.ROWS,
    **inference.ROWS,
    **loading.ROWS,
    **scenes.ROWS,
    **startup.ROWS,
}
