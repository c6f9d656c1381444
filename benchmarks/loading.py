"""Rows of data: batches from shards and from files, crops, and the image processor."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import torch
from torch.nn import functional

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.data import prepare_shards
from spectralgpt_hf.data.chip_grid import chip_corners
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import open_raster
from spectralgpt_hf.training.views import make_views

from .measuring import Setting, Work, bytes_part


INDEXES = [L1C_BANDS.index(band) + 1 for band in L2A_BANDS]
CHIP, CROP = 128, 96


def write_chips(folder: Path, count: int, **profile: object) -> list[Path]:
    """Cut `count` overlapping chips of 13 bands from the sample, and write each to a GeoTIFF."""
    folder.mkdir()
    paths = []
    with open_raster(SAMPLE) as reader:
        stride = int((reader.width - CHIP) / (math.isqrt(count - 1) + 1))
        for left, top in chip_corners(reader.height, reader.width, CHIP, stride)[:count]:
            chip = reader.read((left, top, CHIP, CHIP))
            paths.append(folder / f"{top}_{left}.tif")
            shape = {"driver": "GTiff", "count": 13, "height": CHIP, "width": CHIP, "dtype": "uint16"}
            with rasterio.open(paths[-1], "w", crs=chip.crs, transform=chip.transform, **shape, **profile) as file:
                file.write(chip.pixels)
                file.descriptions = L1C_BANDS
    return paths


def read_one_by_one(paths: list[Path], batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches of uint16 from files in a shuffled order, as `rasterio` users read them."""
    order = np.random.default_rng(0).permutation(len(paths))
    for start in range(0, len(order), batch_size):
        images = []
        for index in order[start : start + batch_size]:
            with rasterio.open(paths[index]) as file:
                images.append(file.read(INDEXES))
        yield torch.from_numpy(np.stack(images))


def augment_one_by_one(paths: list[Path], batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches of crops, each min-max scaled in NumPy, cropped and resized by itself."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(paths))
    for start in range(0, len(order), batch_size):
        crops = []
        for index in order[start : start + batch_size]:
            with rasterio.open(paths[index]) as file:
                image = file.read(INDEXES).astype(np.float32)
            low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
            image = (image - low) / (high - low + 1e-10)
            top, left, rows, columns = random_box(generator, *image.shape[1:])
            part = torch.from_numpy(image)[None, :, top : top + rows, left : left + columns]
            crop = functional.interpolate(part, (CROP, CROP), mode="bicubic", antialias=True)[0]
            crops.append(crop.flip(-1) if generator.random() < 0.5 else crop)
        yield torch.stack(crops)


def random_box(generator: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random resized crop."""
    area = height * width * generator.uniform(0.2, 1)
    ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    rows, columns = min(round(math.sqrt(area / ratio)), height), min(round(math.sqrt(area * ratio)), width)
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return int(top), int(left), rows, columns


def exhaust(batches: Callable[[], Iterable[object]]) -> None:
    """Read all batches."""
    for _ in batches():
        pass


def loading(
    compression: Literal["lz4", "zstd", "none"], literal_compression: str | None, crops: bool, setting: Setting
) -> Work:
    """Batches of chips from shards, as uint16 or as scaled random crops, against GeoTIFFs that are read one by one.

    The limit are the bytes that a chip has in memory, and those of the result.
    """
    warnings.simplefilter("ignore")
    count, batch_size = (16, 8) if setting.quick else (256, 64)
    profile = {"compress": literal_compression} if literal_compression else {}
    paths = write_chips(setting.folder / "files", count, **profile)
    shards = prepare_shards(
        setting.folder / "files", setting.folder / "shards", "folder", compression=compression, num_workers=1
    )
    stream = ShardStream(shards, L2A_BANDS, batch_size, num_workers=1)
    config = SpectralGPTConfig.from_preset("tiny", image_size=CROP)

    def views() -> Iterator[torch.Tensor]:
        for batch in stream.batches():
            yield make_views(batch, config, 0, 0, torch.device("cpu"))["pixel_values"]

    size = len(L2A_BANDS) * CHIP**2 * 2 + (len(L2A_BANDS) * CROP**2 * 4 if crops else 0)
    files = f"GeoTIFFs ({literal_compression or 'not compressed'})"
    return Work(
        f"{'scaled crops' if crops else 'uint16 batches'} of {count} chips from shards ({compression}); literal: "
        f"{files} one by one",
        partial(exhaust, views if crops else stream.batches),
        [bytes_part(size * count)],
        partial(exhaust, partial(augment_one_by_one if crops else read_one_by_one, paths, batch_size)),
        {"chips": count},
    )


def loop(images: list[np.ndarray], finds_nodata: bool) -> torch.Tensor:
    """Min-max every band of every image over its valid pixels, then stack."""
    batch = []
    for image in images:
        valid = (image != 0).any(axis=0)
        bands = []
        for band in image:
            band = band.astype(np.float32)
            known = band[valid] if finds_nodata else band
            low, high = known.min(), known.max()
            scaled = (band - low) / (high - low + 1e-10)
            bands.append(np.where(valid, scaled, scaled[valid].mean()) if finds_nodata else scaled)
        batch.append(np.stack(bands))
    return torch.from_numpy(np.stack(batch))


def processor(finds_nodata: bool, setting: Setting) -> Work:
    """The image processor, against loops over images and bands that give the same values.

    The limit are the bytes of the images and of the result.
    """
    count = 4 if setting.quick else 64
    generator = np.random.default_rng(0)
    images = [generator.integers(1, 10_000, (12, 128, 128), dtype=np.uint16) for _ in range(count)]
    process = SpectralGPTImageProcessor()
    if not torch.equal(process(images).pixel_values, loop(images, finds_nodata)):
        raise RuntimeError("The processor and the loop give different values.")
    return Work(
        f"{count} images (12, 128, 128) to model input; literal: a loop over bands that "
        f"{'finds' if finds_nodata else 'ignores'} pixels without data",
        lambda: process(images),
        [bytes_part(count * images[0].size * (2 + 4))],
        lambda: loop(images, finds_nodata),
        {"images": count},
    )


ROWS: dict[str, Callable[[Setting], Work]] = {
    "shards-lz4": partial(loading, "lz4", "deflate", False),
    "shards-zstd": partial(loading, "zstd", "deflate", False),
    "shards-none": partial(loading, "none", None, False),
    "crops-lz4": partial(loading, "lz4", "deflate", True),
    "crops-none": partial(loading, "none", None, True),
    "processor": partial(processor, True),
    "processor-nodata-ignored": partial(processor, False),
}
