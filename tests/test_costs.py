"""Twice the bands, pixels or files cost at most twice as much, in operations that are counted."""

import shutil

import datasets
import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_change_pairs, load_image_folder, load_image_masks
from spectralgpt_hf.data.shards import dataset
from spectralgpt_hf.data.shards.dataset import load_shards
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.data.shards.prepare import prepare_shards
from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.image_processing_spectralgpt import measure_statistics
from spectralgpt_hf.modeling.rasters import open_raster, read_raster
from spectralgpt_hf.training.measuring import measure_over
from spectralgpt_hf.training.metrics import DenseScores
from tests.costs import Cost, count
from tests.data.files import UTM, write_image
from tests.inference.scenes import encoder, processor, segmenter, write_scene
from tests.modeling.test_pipelines import FEATURES, SEGMENTATION, make_pipeline


pytestmark = pytest.mark.filterwarnings("ignore")
NORMALIZATIONS = ("minmax", "percentile", "zscore", "sigma_clip")


def image(height: int = 32, width: int = 32, bands: int = 12) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(1, 9000, (bands, height, width)).astype(np.uint16)
    pixels[:, : height // 4, :8] = 0  # no data
    return pixels


def doubling(work, *sizes: int, spare: float = 0.0) -> None:
    """Check the cost of `work(size)` for each size and its double, after what is done once has been done."""
    work(sizes[0])
    costs: dict[int, Cost] = {}
    for size in sizes:
        for each in (size, 2 * size):
            if each not in costs:
                costs[each] = count(lambda each=each: work(each))
        costs[size].at_most_doubled_by(costs[2 * size], spare)


def test_the_counter_counts_loops_threads_files_and_numbers(tmp_path):
    path = write_image(tmp_path / "a.tif", image(16, 16), **UTM)
    cost = count(lambda: read_raster(path))
    assert (cost.opened, cost.pixels) == (1, 12 * 16 * 16)
    assert cost.lines > 50
    assert count(lambda: torch.ones(3) + 1).numbers == 6
    names = [f"name {number}" for number in range(40)]
    few, many = (count(lambda n=n: DenseScores(["a"], names[:n], [(0, 0, 8, 8)] * n)) for n in (5, 40))
    assert many.lines > few.lines + 35
    with pytest.raises(AssertionError, match="lines: 10 became 25"):
        Cost(lines=10).at_most_doubled_by(Cost(lines=25))


@pytest.mark.parametrize("number", [3, 6])
def test_bands_of_files(number, tmp_path):
    """A folder with one file per band."""
    for size in (number, 2 * number):
        for band in L2A_BANDS[:size]:
            write_image(tmp_path / str(size) / f"T33_20200101_{band}.tif", image(32, 32, 1), **UTM)
    doubling(lambda size: read_raster(tmp_path / str(size)), number)


def test_bands_of_a_file_of_which_some_are_used(tmp_path):
    names = [f"quality {number}" for number in range(500)]
    for size in (20, 40, 80, 160):
        path = write_image(tmp_path / f"{size}.tif", np.ones((size, 8, 8), np.uint16), **UTM)
        import rasterio

        with rasterio.open(path, "r+") as file:
            file.descriptions = [*L1C_BANDS, *names][:size]
    doubling(lambda size: read_raster(tmp_path / f"{size}.tif", L2A_BANDS), 20, 40, 80)


def test_pixels_of_a_file(tmp_path):
    for size in (64, 128, 256):
        write_image(tmp_path / f"{size}.tif", image(size, 64), **UTM)
    doubling(lambda size: read_raster(tmp_path / f"{size}.tif"), 64, 128)


def test_windows_of_a_file(tmp_path):
    path = write_image(tmp_path / "a.tif", image(64, 64), **UTM)

    def read(size: int) -> None:
        with open_raster(path) as reader:
            for number in range(size):
                reader.read((0, 8 * (number % 8), 64, 8))

    doubling(read, 8, 16)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_processor(normalization):
    own = {"mean": [1500.0] * 12, "std": [700.0] * 12} if normalization in ("zscore", "sigma_clip") else {}
    process = SpectralGPTImageProcessor(normalization=normalization, **own)
    doubling(lambda size: process([image()] * size, band_names=L2A_BANDS), 4, 8)
    doubling(lambda size: process(image(size, 32), band_names=L2A_BANDS), 32, 64)
    doubling(lambda size: process([image(16 + 8 * (n % 2), 24)[:, :16] for n in range(size)], band_names=L2A_BANDS), 4)
    settings = {"spectral_patch_size": 1, "normalization": "minmax"}
    by_number = {size: SpectralGPTImageProcessor(bands=L2A_BANDS[:size], **settings) for size in (3, 6, 12)}
    doubling(lambda size: by_number[size](image(bands=size), band_names=L2A_BANDS[:size]), 3, 6)


def test_statistics(tmp_path):
    for number in range(8):
        write_image(tmp_path / f"{number}.tif", image(32, 32), **UTM)
    doubling(lambda size: measure_statistics([tmp_path / f"{n}.tif" for n in range(size)]), 2, 4)
    doubling(lambda size: measure_statistics(image(size, 32), band_names=L2A_BANDS), 32, 64)
    rows = {size: rows_of_windows(tmp_path / str(size), size) for size in (4, 8, 16)}
    doubling(lambda size: measure_over(rows[size], SpectralGPTImageProcessor()), 4, 8)


def rows_of_windows(folder, number: int) -> datasets.Dataset:
    write_image(folder / "images" / "a.tif", image(16 * number, 16), **UTM)
    write_image(folder / "masks" / "a.png", np.zeros((16 * number, 16), np.uint8))
    return load_image_masks(folder, "all", classes=["x"], band_names=L2A_BANDS, size=16)


def test_lists_of_files(tmp_path):
    """Readers of one's own data, with a table."""

    def write(size: int) -> None:
        folder, pixels = tmp_path / str(size), image(8, 8)
        for number in range(size):
            write_image(folder / "classes" / "ab"[number % 2] / f"{number}.tif", pixels)
            for name in ("before", "after"):
                write_image(folder / "pairs" / name / f"{number}.tif", pixels)
            write_image(folder / "pairs" / "masks" / f"{number}.png", np.zeros((8, 8), np.uint8))
        lines = [f"before/{number}.tif,s{number // 2}\n" for number in range(size)]
        (folder / "pairs" / "table.csv").write_text("path,site\n" + "".join(lines))

    for size in (8, 16, 32):
        write(size)
    for split in ("all", "train"):
        doubling(lambda size: load_image_folder(tmp_path / f"{size}/classes", split, band_names=L2A_BANDS), 8, 16)  # noqa: B023
    doubling(lambda size: load_change_pairs(tmp_path / f"{size}/pairs", "all", band_names=L2A_BANDS), 8, 16)


@pytest.mark.parametrize("kind", ["folder", "scenes"])
def test_the_preparation_of_shards(kind, tmp_path):
    for size in (2, 4, 8):
        for number in range(size):
            write_image(tmp_path / f"files {size}" / f"{number}.tif", image(64, 64), **UTM)

    def prepare(size: int) -> None:
        shutil.rmtree(tmp_path / f"out {size}", ignore_errors=True)
        chips = {"size": 32} if kind == "scenes" else {}
        given = {"num_workers": 1, "rows_per_shard": 8, "band_names": L2A_BANDS, **chips}
        prepare_shards(tmp_path / f"files {size}", tmp_path / f"out {size}", kind, **given)

    doubling(prepare, 2, 4)


def test_shards_of_a_training_set(tmp_path):
    for size in (8, 16, 32):
        rows = [ShardRow(str(number), image(16, 16), L2A_BANDS, label=0) for number in range(size)]
        write_shards(rows, tmp_path / str(size), rows_per_shard=4, class_names=["a"])

    def read(size: int) -> None:
        for cache in (dataset._open, dataset._read):
            cache.cache_clear()
        assert len([row["pixels"] for row in load_shards(tmp_path / str(size))]) == size

    doubling(read, 8, 16)


def test_scores_of_scenes():
    """The scores of many scenes, each of some windows."""
    logits, labels = torch.randn(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)

    def score(size: int) -> None:
        names = [f"scene {number // 2}" for number in range(size)]
        scores = DenseScores(["a", "b"], names, [(0, 4 * (number % 2), 8, 8) for number in range(size)])
        for number in range(size):
            scores.update(logits, labels, torch.tensor([number]))
        scores.compute()

    doubling(score, 16, 32)


def test_pipelines():
    extract, segment = make_pipeline(FEATURES), make_pipeline(SEGMENTATION)
    doubling(lambda size: extract([image()] * size, batch_size=2, band_names=L2A_BANDS), 2, 4)
    # n tiles that overlap by half lie in (n + 1) / 2 tile sizes: twice the pixels are one tile more than twice as many.
    doubling(lambda size: segment(image(size, 32), band_names=L2A_BANDS), 96, spare=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("function", [predict_scene, embed_scene])
def test_scenes(function, tmp_path, monkeypatch):
    model, own = {predict_scene: segmenter, embed_scene: encoder}[function](), processor()
    for size in (96, 192):
        write_scene(tmp_path / f"{size}.tif", width=size, height=64)
    calls: list[int] = []
    forward = type(model).forward

    def spy(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", spy)

    def run(size: int) -> int:
        calls.clear()
        function(model, own, tmp_path / f"{size}.tif", tmp_path / f"m{size}.tif", progress=False, overwrite=True)
        return len(calls)

    doubling(run, 96, spare=0.25)
    # Rows of 3 tiles; of 96 px 5 in a row, of 192 px 11.
    assert (run(96), run(192)) == (15, 33)
    for options in ({"area": None}, {"workers": 4}):
        few = count(
            lambda options=options: function(
                model, own, tmp_path / "96.tif", tmp_path / "x.tif", progress=False, overwrite=True, **options
            )
        )
        assert few.pixels <= 3 * 13 * 96 * 64  # statistics, tiles, and nothing twice
