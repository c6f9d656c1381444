"""Map a scene of the size of a Sentinel-2 tile, made by tiling the embedded sample: time, memory, and resuming.

    python benchmarks/scene.py --size 10980

The time of a run is compared with that of the model alone, which is measured on a sample of the tiles. Another run is
killed half-way and resumed, and must give the same file as one without interruption. The rows `scene-*` of
`python -m benchmarks` compare the time of smaller scenes with that of reading and model alone.
"""

import argparse
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import rasterio
import torch
from rasterio.windows import Window

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.assets import CHECKPOINT, SAMPLE
from spectralgpt_hf.inference.threads import ordered_map, restored_threads
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.tiling import TileGrid


SAMPLE_TILES = 500
"""Number of tiles on which the time of the model alone is measured."""


def make_scene(path: Path, size: int) -> None:
    """Tile the sample to a GeoTIFF of 12 bands, row by row."""
    with rasterio.open(SAMPLE) as sample:
        indexes = [index for index, name in enumerate(sample.descriptions, 1) if name in L2A_BANDS]
        pixels = sample.read(indexes)
        profile = {**sample.profile, "count": 12, "height": size, "width": size, "compress": "zstd", "zstd_level": 1}
        profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band", "predictor": 2}
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.descriptions = [sample.descriptions[index - 1] for index in indexes]
            for top in range(0, size, pixels.shape[1]):
                for left in range(0, size, pixels.shape[2]):
                    height, width = min(pixels.shape[1], size - top), min(pixels.shape[2], size - left)
                    dataset.write(pixels[:, :height, :width], window=Window(left, top, width, height))


def make_checkpoint(folder: Path, minimal: bool) -> None:
    """Save an untrained model for four classes, which is minimal or has the embedded encoder."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    torch.manual_seed(0)
    if minimal:
        config = SpectralGPTConfig.from_preset("tiny", **sizes, decode_hidden_size=16, num_labels=4)
        model = SpectralGPTForSemanticSegmentation(config)
    else:
        model = SpectralGPTForSemanticSegmentation.from_pretrained(
            CHECKPOINT, num_labels=4, decode_hidden_size=16, dtype=torch.float32
        )
    model.save_pretrained(folder)
    SpectralGPTImageProcessor.from_pretrained(CHECKPOINT).save_pretrained(folder)


def load(checkpoint: Path) -> tuple[SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor]:
    """Return the model in evaluation mode, and its processor."""
    model = SpectralGPTForSemanticSegmentation.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, SpectralGPTImageProcessor.from_pretrained(checkpoint)


def model_alone(model: SpectralGPTForSemanticSegmentation, side: int, tiles: int) -> Callable[[], None]:
    """Return a function that maps a number of tiles of `side` px in memory, in the threads of `predict_scene`."""
    pixel_values = torch.rand(1, 12, side, side)

    @torch.inference_mode()
    def forward(_: int) -> torch.Tensor:
        return model(pixel_values=pixel_values).logits

    def compute() -> None:
        with restored_threads() as cores:
            for _ in ordered_map(forward, range(tiles), cores, 2 * cores):
                pass

    return compute


def measure_model(checkpoint: Path, size: int, overlap: float) -> float:
    """Return the seconds that the model alone needs for the tiles of a scene, from those of a sample."""
    model, processor = load(checkpoint)
    grid = TileGrid.cover(size, size, model.config.image_size, overlap, 1, processor.patch_size)
    tiles = len(grid.tops) * len(grid.lefts)
    model_alone(model, grid.size, 20)()  # warm-up
    start = time.perf_counter()
    model_alone(model, grid.size, SAMPLE_TILES)()
    return (time.perf_counter() - start) / SAMPLE_TILES * tiles


def measure_runs(scene: Path, checkpoint: Path, size: int, overlap: float, folder: Path) -> None:
    """Print the time and memory of a run, and whether one that is killed and resumed gives the same file."""
    command = partial(
        _run, [str(Path(sys.executable).parent / "spectralgpt"), "predict", str(checkpoint), str(scene)], str(overlap)
    )
    whole, resumed = folder / "whole.tif", folder / "resumed.tif"
    start = time.perf_counter()
    strips = command(whole)
    wall = time.perf_counter() - start
    print(f"a run without interruption: {wall:.0f} s, {strips} strips, peak {_peak():.2f} GiB resident", flush=True)
    alone = measure_model(checkpoint, size, overlap)
    print(f"the model alone: {alone:.0f} s for the same tiles, {alone / wall:.0%} of the run with the command's start")
    print(f"killed after {command(resumed, kill_after=strips // 2)} of {strips} strips", flush=True)
    start = time.perf_counter()
    command(resumed)
    same = _hash(whole) == _hash(resumed)
    print(f"resumed: {time.perf_counter() - start:.0f} s, {_peak():.2f} GiB; the same file: {same}")
    if not same:
        raise RuntimeError("The resumed run gave another file.")


def _run(command: list[str], overlap: str, destination: Path, kill_after: int | None = None) -> int:
    """Run the command, kill it when `kill_after` strips are finished, and return the number of finished strips."""
    arguments = [*command, str(destination), "--overlap", overlap, "--device", "cpu"]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    strips = 0
    while process.poll() is None:
        strips = max(strips, len(list(Path(f"{destination}.parts").rglob("*.npz"))))
        if kill_after is not None and strips >= kill_after:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return strips
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}.")
    return strips


def _peak() -> float:
    """Return the largest resident memory of any run so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="Height and width of the scene, in pixels.")
    parser.add_argument("--overlap", type=float, default=0.5, help="Share of each tile that the next one covers too.")
    parser.add_argument("--embedded", action="store_true", help="Use the embedded encoder instead of a minimal model.")
    parser.add_argument("--folder", type=Path, help="Parent of the temporary folder. Default: that of the system.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_scene(folder / "scene.tif", arguments.size)
        make_checkpoint(folder / "checkpoint", not arguments.embedded)
        measure_runs(folder / "scene.tif", folder / "checkpoint", arguments.size, arguments.overlap, folder)


if __name__ == "__main__":
    main()
