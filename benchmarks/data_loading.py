"""Compare reading batches from Parquet shards with reading the same chips from GeoTIFFs one by one.

    python benchmarks/data_loading.py [--size 128] [--chips 256] [--batch_size 64] [--repeats 7]

Chips of 13 bands are cut from the embedded sample. They are written as GeoTIFFs with rasterio's default layout, with
Deflate and without compression, and as shards by `prepare_shards` from these files. All files are in the page cache.
The benchmark measures processor time over all threads, so that samples per second are those of one core and other work
on the machine has little influence. Rounds alternate, and medians are printed. All contestants run with allocators that
keep freed memory: by default glibc's and Arrow's return large blocks to the kernel, and allocating them again takes as
long as the work itself. There are two comparisons:

- batches: 12 bands in a uint16 batch, ready for the device. The baseline is `rasterio.open(path).read(indexes)` for
  each file in a shuffled order, and one `np.stack`. The goal is a factor of 4.
- whole path: min-max of each band over the whole image, random resized crop (antialiased bicubic), flip. `make_views`
  processes the whole batch at once in torch. The baseline processes each sample: NumPy for the min-max, then
  `torch.nn.functional.interpolate` of the cropped box (as torchvision's `RandomResizedCrop` does), or Pillow's `resize`
  for each band. The goal on a CPU is a factor of 3.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image
from torch.nn import functional

from spectralgpt_hf import SpectralGPTConfig
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.data import prepare_shards
from spectralgpt_hf.data.chip_grid import chip_corners
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import open_raster
from spectralgpt_hf.training.views import make_views


KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MIMALLOC_PURGE_DELAY": "-1"}
DEFAULT = "shards, lz4 (default)"
INDEXES = [L1C_BANDS.index(band) + 1 for band in L2A_BANDS]
Resize = Callable[[np.ndarray, tuple[int, int, int, int], int], torch.Tensor]


def write_chips(folder: Path, size: int, count: int, **profile: object) -> list[Path]:
    """Cut `count` overlapping chips and write each to a GeoTIFF."""
    folder.mkdir()
    paths = []
    with open_raster(SAMPLE) as reader:
        stride = int((reader.width - size) / (math.isqrt(count - 1) + 1))
        for left, top in chip_corners(reader.height, reader.width, size, stride)[:count]:
            chip = reader.read((left, top, size, size))
            paths.append(folder / f"{top}_{left}.tif")
            shape = {"driver": "GTiff", "count": 13, "height": size, "width": size, "dtype": "uint16"}
            with rasterio.open(paths[-1], "w", crs=chip.crs, transform=chip.transform, **shape, **profile) as file:
                file.write(chip.pixels)
                file.descriptions = L1C_BANDS
    return paths


def read_one_by_one(paths: list[Path], batch_size: int) -> Iterator[torch.Tensor]:
    order = np.random.default_rng(0).permutation(len(paths))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        images = []
        for index in order[start : start + batch_size]:
            with rasterio.open(paths[index]) as file:
                images.append(file.read(INDEXES))
        yield torch.from_numpy(np.stack(images))


def augment_one_by_one(paths: list[Path], batch_size: int, size: int, resize: Resize) -> Iterator[torch.Tensor]:
    generator = np.random.default_rng(0)
    order = generator.permutation(len(paths))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        crops = []
        for index in order[start : start + batch_size]:
            with rasterio.open(paths[index]) as file:
                image = file.read(INDEXES).astype(np.float32)
            low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
            image = (image - low) / (high - low + 1e-10)
            crop = resize(image, random_box(generator, *image.shape[1:]), size)
            crops.append(crop.flip(-1) if generator.random() < 0.5 else crop)
        yield torch.stack(crops)


def random_box(generator: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random resized crop."""
    area = height * width * generator.uniform(0.2, 1)
    ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    rows, columns = min(round(math.sqrt(area / ratio)), height), min(round(math.sqrt(area * ratio)), width)
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return int(top), int(left), rows, columns


def resize_in_torch(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    top, left, rows, columns = box
    part = torch.from_numpy(image)[None, :, top : top + rows, left : left + columns]
    return functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]


def resize_in_pillow(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    top, left, rows, columns = box
    bands = [
        Image.fromarray(band[top : top + rows, left : left + columns]).resize((size, size), Image.Resampling.BICUBIC)
        for band in image
    ]
    return torch.from_numpy(np.stack([np.asarray(band) for band in bands]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="Height and width of the chips, in pixels.")
    parser.add_argument("--image_size", type=int, default=96, help="Height and width of the crops, in pixels.")
    parser.add_argument("--chips", type=int, default=256, help="Number of chips.")
    parser.add_argument("--batch_size", type=int, default=64, help="Number of chips per batch.")
    parser.add_argument("--repeats", type=int, default=7, help="Number of rounds.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config = SpectralGPTConfig.from_preset("tiny", image_size=options.image_size)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = write_chips(folder / "plain", options.size, options.chips)
        deflate = write_chips(folder / "deflate", options.size, options.chips, compress="deflate")
        streams = {}
        for compression in ("lz4", "zstd", "none"):
            shards = prepare_shards(
                folder / "plain", folder / compression, "folder", compression=compression, num_workers=1
            )
            streams[compression] = ShardStream(shards, L2A_BANDS, options.batch_size, num_workers=1)

        def views(stream: ShardStream) -> Iterator[torch.Tensor]:
            for batch in stream.batches():
                yield make_views(batch, config, 0, 0, torch.device("cpu"))["pixel_values"]

        def usual(paths: list[Path], resize: Resize) -> Iterator[torch.Tensor]:
            return augment_one_by_one(paths, options.batch_size, options.image_size, resize)

        batches: dict[str, Callable[[], Iterator[object]]] = {
            DEFAULT: lambda: streams["lz4"].batches(),
            "shards, zstd": lambda: streams["zstd"].batches(),
            "shards, uncompressed": lambda: streams["none"].batches(),
            "GeoTIFFs, deflate": lambda: read_one_by_one(deflate, options.batch_size),
            "GeoTIFFs, uncompressed": lambda: read_one_by_one(plain, options.batch_size),
        }
        whole: dict[str, Callable[[], Iterator[object]]] = {
            DEFAULT: lambda: views(streams["lz4"]),
            "shards, zstd": lambda: views(streams["zstd"]),
            "shards, uncompressed": lambda: views(streams["none"]),
            "GeoTIFFs, deflate, torch": lambda: usual(deflate, resize_in_torch),
            "GeoTIFFs, deflate, Pillow": lambda: usual(deflate, resize_in_pillow),
            "GeoTIFFs, uncompressed, torch": lambda: usual(plain, resize_in_torch),
            "GeoTIFFs, uncompressed, Pillow": lambda: usual(plain, resize_in_pillow),
        }
        print(f"{options.chips} chips of 13 x {options.size} x {options.size} px, batches of {options.batch_size}")
        for title, contestants in {
            "batches of uint16": batches,
            f"min-max and crops of {options.image_size} px": whole,
        }.items():
            rates = measure(contestants, options.chips // options.batch_size * options.batch_size, options.repeats)
            print(f"{title}:")
            for name, rate in rates.items():
                ratio = rates[DEFAULT] / rate
                print(f"{name:>32}: {rate:6.0f} samples/s/core; shards are {ratio:4.1f} x as fast", flush=True)


def measure(contestants: dict[str, Callable[[], Iterator[object]]], samples: int, repeats: int) -> dict[str, float]:
    """Return samples per second of processor time."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            start = time.process_time()
            for _ in run():
                pass
            if repeat:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    return {name: samples / statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        # The allocators read these variables only when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    main()
