"""What the rows of the suite share: clocks, alternating runs, the limits of the machine, and the allocator."""

import os
import platform
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode


# By default glibc and Arrow return large blocks to the kernel, and a step then spends up to half of its time on page
# faults. The allocators read these variables when a process starts.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MIMALLOC_PURGE_DELAY": "-1"}

# Operations that are shorter are repeated for a measurement.
SHORTEST_FLOP = 2e8
COPIED_BYTES = 2**28


class NotMeasurableError(Exception):
    """A row says nothing about this machine. The message gives the reason."""


class Seconds(NamedTuple):
    """Time of one run. `processor` counts all threads and child processes, so that other work hardly disturbs it."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Part:
    """A part of the limit: the time of `run`, `count` times."""

    run: Callable[[], object]
    count: float = 1.0


@dataclass(frozen=True)
class Work:
    """The work of a row, with its contestants.

    Attributes:
        text: What is done.
        ours: Does it as the package does.
        limit: Parts whose times add up to the shortest time that the machine allows.
        literal: Does it in the literal way, if there is one.
        amounts: Amount of work by unit, for rates.
        aim: Share of the limit, or time, that is aimed at.
        overlaps: Whether the parts of the limit can run at the same time: the limit by the wall clock is then that of
            the longest one.
        notes: Facts to print and store beside the times.
    """

    text: str
    ours: Callable[[], object]
    limit: Sequence[Part] = ()
    literal: Callable[[], object] | None = None
    amounts: Mapping[str, float] = field(default_factory=dict)
    aim: str = ""
    overlaps: bool = False
    notes: str = ""


@dataclass(frozen=True)
class Setting:
    """How a row is measured: `quick` asks for small sizes, and `folder` takes its files."""

    folder: Path
    quick: bool = False


def measure_row(name: str, make: Callable[[Setting], Work], threads: int, repeats: int, quick: bool) -> dict[str, Any]:
    """Measure a row, in a process of its own. A row that says nothing about this machine has only `notes`."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            work = make(Setting(Path(folder), quick))
            return {"row": name, **measure(work, repeats)}
        except NotMeasurableError as reason:
            return {"row": name, "notes": f"not measurable here: {reason}"}
        except torch.OutOfMemoryError:
            return {"row": name, "notes": "not measurable here: the memory of the GPU is too small"}


def time_of(run: Callable[[], object]) -> Seconds:
    """Return the time of one run."""

    def now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime

    start = now()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    stop = now()
    return Seconds(stop[0] - start[0], stop[1] - start[1])


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Let the contestants alternate, and return the medians of their times and of the ratios of each round.

    The first round warms up. The peak memory is that of the process after its first run of ours.
    """
    work.ours()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    runs = [work.ours, *([work.literal] if work.literal else []), *(part.run for part in work.limit)]
    rounds = [[time_of(run) for run in runs] for _ in range(repeats + 1)][1:]
    result: dict[str, Any] = {"work": work.text, "aim": work.aim, "notes": work.notes, "peak_gib": peak}
    for clock in Seconds._fields:
        times = [[getattr(seconds, clock) for seconds in each] for each in rounds]
        ours = [each[0] for each in times]
        found: dict[str, float] = {"reached": statistics.median(ours)}
        if work.literal:
            found["literal"] = statistics.median(each[1] for each in times)
            found["ratio"] = statistics.median(each[0] / each[1] for each in times)
        if work.limit:
            join = max if work.overlaps and clock == "wall" else sum
            limits = [
                join(seconds * part.count for seconds, part in zip(each[-len(work.limit) :], work.limit))
                for each in times
            ]
            found["limit"] = statistics.median(limits)
            found["share"] = statistics.median(limit / reached for limit, reached in zip(limits, ours))
        found |= {f"{unit}/s": amount / found["reached"] for unit, amount in work.amounts.items()}
        result[clock] = found
    return result


class Product(NamedTuple):
    """A matrix product (rows, inner) x (inner, columns), and whether the operands are stored transposed."""

    rows: int
    inner: int
    columns: int
    left: bool
    right: bool
    dtype: torch.dtype

    @property
    def flop(self) -> float:
        """Floating-point operations."""
        return 2.0 * self.rows * self.inner * self.columns


class Products(TorchDispatchMode):
    """Counts the matrix products of all operations within a `with` statement, in `found`.

    Convolutions count as the products of their unfolded inputs, attention as its two products and, in the backward
    pass, the four that its gradients need.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    @property
    def flop(self) -> float:
        """Floating-point operations of all products."""
        return sum(product.flop * count for product, count in self.found.items())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self._add(args[0], args[1])
        elif name in ("addmm", "baddbmm"):
            self._add(args[1], args[2])
        elif name == "linear":
            self._add(args[0].flatten(0, -2), args[1].t())
        elif name == "convolution":
            self._add_convolution(args[1], args[0] if args[6] else result, 1)
        elif name == "convolution_backward":
            self._add_convolution(args[2], args[1] if args[7] else args[0], sum(args[10][:2]))
        elif name == "_scaled_dot_product_flash_attention_for_cpu":
            self._add_attention(args[0], args[1], args[2])
        elif name == "_scaled_dot_product_flash_attention_for_cpu_backward":
            self._add_attention(args[1], args[2], args[3], 2)
        return result

    def _add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        rows, inner = left.shape[-2:]
        transposed = left.stride(-1) != 1, right.stride(-1) != 1
        product = Product(rows, inner, right.shape[-1], *transposed, left.dtype)
        self.found[product] += left.shape[:-2].numel()

    def _add_attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, count: int = 1) -> None:
        for _ in range(count):
            self._add(query, key.transpose(-1, -2))
            self.found[Product(query.shape[-2], key.shape[-2], value.shape[-1], False, False, query.dtype)] += (
                query.shape[:-2].numel()
            )

    def _add_convolution(self, weight: torch.Tensor, image: torch.Tensor, count: int) -> None:
        positions = image.shape[2:].numel()
        shape = (weight.shape[0], weight[0].numel(), positions)
        self.found[Product(*shape, False, False, weight.dtype)] += image.shape[0] * count


def product_parts(found: Mapping[Product, int], device: str = "cpu") -> list[Part]:
    """Return the parts of a limit: each product in its own shape and layout, into memory that is there already."""
    return [_product_part(product, count, device) for product, count in found.items()]


def _product_part(product: Product, count: int, device: str) -> Part:
    batch = min(count, max(1, int(SHORTEST_FLOP / product.flop)), 64)
    rows, inner, columns = product[:3]
    left, right = (
        torch.randn(batch, *(shape[::-1] if transposed else shape), device=device).to(product.dtype)
        for shape, transposed in (((rows, inner), product.left), ((inner, columns), product.right))
    )
    left, right = (
        tensor.transpose(1, 2) if transposed else tensor
        for tensor, transposed in ((left, product.left), (right, product.right))
    )
    target = torch.empty(batch, rows, columns, dtype=product.dtype, device=device)
    return Part(lambda: torch.bmm(left, right, out=target), count / batch)


def bytes_part(count: float, device: str = "cpu") -> Part:
    """Return the part of a limit that reads or writes a number of bytes, at the rate of copying."""
    source, target = (torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    return Part(lambda: target.copy_(source), count / (2 * COPIED_BYTES))


def square_rate(dtype: torch.dtype, device: str = "cpu", size: int = 512) -> float:
    """Return the FLOP/s of processor time, on a GPU of wall time, of square matrix products."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    clock = "processor" if device == "cpu" else "wall"
    return 2 * size**3 / min(getattr(time_of(lambda: left @ right), clock) for _ in range(5))


def check_dtype(dtype: torch.dtype, device: str = "cpu") -> None:
    """Raise `NotMeasurableError` if the machine multiplies matrices of a dtype more slowly than those of float32."""
    if dtype == torch.float32:
        return
    found, full = square_rate(dtype, device, 256), square_rate(torch.float32, device, 256)
    if found < full:
        raise NotMeasurableError(
            f"{found / 1e9:.1f} GFLOP/s in {name_of(dtype)} against {full / 1e9:.1f} in float32: the processor only "
            "emulates it"
        )


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype without `torch.`."""
    return str(dtype).removeprefix("torch.")


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on: processor, threads, rates, allocator, versions, load and date."""
    torch.set_num_threads(threads)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    copied = bytes_part(2 * COPIED_BYTES).run
    copied()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": threads,
        "torch": torch.__version__,
        "allocator": {name: os.environ.get(name) for name in KEEP_MEMORY},
        "load": os.getloadavg()[0],
        "float32 GFLOP/s": square_rate(torch.float32, size=1024) / 1e9,
        "bfloat16 GFLOP/s": square_rate(torch.bfloat16, size=256) / 1e9,
        "copying GB/s": 2 * COPIED_BYTES / time_of(copied).processor / 1e9,
    }
