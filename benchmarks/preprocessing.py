"""From uint16 arrays (12, 128, 128) to the model's input, against the obvious loop over images and bands in NumPy.

    python benchmarks/preprocessing.py [--batch-size 64] [--repeats 30]

Both give the same tensor, bit for bit. The times of both are taken in turn, so that what else the machine does falls on
both.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from spectralgpt_hf import SpectralGPTImageProcessor


def loop(images: list[np.ndarray]) -> torch.Tensor:
    """Min-max every band of every image on its own, then stack."""
    batch = []
    for image in images:
        bands = []
        for band in image:
            band = band.astype(np.float32)
            low, high = band.min(), band.max()
            bands.append((band - low) / (high - low + 1e-10))
        batch.append(np.stack(bands))
    return torch.from_numpy(np.stack(batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    size = (12, 128, 128)
    images = [generator.integers(1, 10_000, size, dtype=np.uint16) for _ in range(arguments.batch_size)]
    processor = SpectralGPTImageProcessor()

    def processed() -> torch.Tensor:
        return processor(images, return_tensors="pt").pixel_values

    if not torch.equal(loop(images), processed()):
        raise RuntimeError("The processor and the loop disagree.")

    contestants: dict[str, Callable[[], torch.Tensor]] = {"loop": lambda: loop(images), "processor": processed}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, median in medians.items():
        print(f"{name:>10}: {arguments.batch_size / median:8.0f} samples/s  ({median * 1e3:.1f} ms a batch)")
    print(f"{'ratio':>10}: {medians['loop'] / medians['processor']:8.1f}")


if __name__ == "__main__":
    main()
