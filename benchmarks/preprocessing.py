"""Compare the image processor on uint16 arrays (12, 128, 128) with plain loops over images and bands in NumPy.

    python benchmarks/preprocessing.py [--batch-size 64] [--repeats 30]

All give exactly the same tensor. The first loop does what the processor does: it finds the pixels without data and
leaves them out. The second loop assumes that all pixels have data. The contestants alternate, so that other work on the
machine slows all of them alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from spectralgpt_hf import SpectralGPTImageProcessor


def loop(images: list[np.ndarray]) -> torch.Tensor:
    """Min-max every band of every image over its valid pixels, fill the others with the mean, then stack."""
    batch = []
    for image in images:
        valid = (image != 0).any(axis=0)
        bands = []
        for band in image:
            band = band.astype(np.float32)
            low, high = band[valid].min(), band[valid].max()
            scaled = (band - low) / (high - low + 1e-10)
            bands.append(np.where(valid, scaled, scaled[valid].mean()))
        batch.append(np.stack(bands))
    return torch.from_numpy(np.stack(batch))


def loop_without_nodata(images: list[np.ndarray]) -> torch.Tensor:
    """Min-max every band of every image, then stack."""
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
    images = [generator.integers(1, 10_000, (12, 128, 128), dtype=np.uint16) for _ in range(arguments.batch_size)]
    processor = SpectralGPTImageProcessor()
    contestants: dict[str, Callable[[], torch.Tensor]] = {
        "loop": lambda: loop(images),
        "loop without nodata": lambda: loop_without_nodata(images),
        "processor": lambda: processor(images, return_tensors="pt").pixel_values,
    }
    expected = loop(images)
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            values = run()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            if not torch.equal(values, expected):
                raise RuntimeError(f"{name} gives other values.")

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"batches of {arguments.batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, median in medians.items():
        rate, ratio = arguments.batch_size / median, median / medians["processor"]
        print(
            f"{name:>20}: {rate:6.0f} samples/s, {median * 1e3:6.1f} ms per batch, {ratio:4.1f} x the processor's time"
        )


if __name__ == "__main__":
    main()
