"""Maps hardly depend on where tiles lie."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from spectralgpt_hf import SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.rasters import read_raster

from .scenes import minimal_config, processor, read, segmenter, write_scene


TILE = 64


def majority(values, size):
    """Return the mean over a square of `size` pixels around each pixel of (K, H, W)."""
    return nn.functional.avg_pool2d(nn.functional.pad(values[None], [size // 2] * 4, mode="reflect"), size, 1)[0]


def land_cover():
    """Label the sample by thresholds on NDVI and green: water and marsh, forest, fields; each where it prevails."""
    scene = read_raster(SAMPLE, bands=["B3", "B4", "B8"])
    green, red, infrared = torch.from_numpy(scene.pixels.astype(np.float32))
    ndvi = (infrared - red) / (infrared + red)
    classes = torch.where(ndvi < 0.2, 0, torch.where(majority(green[None], 3)[0] > 780, 2, 1))
    return majority(nn.functional.one_hot(classes).permute(2, 0, 1).float(), 17).argmax(0)


@pytest.fixture(scope="session")
def trained():
    """Train a small segmenter on random crops of the sample, in about a minute and a half on one core."""
    own, labels = SpectralGPTImageProcessor(), land_cover()
    pixels = own(read_raster(SAMPLE), statistics=own.measure_statistics(SAMPLE))["pixel_values"][0]
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "decode_dropout": 0.0}
    model = SpectralGPTForSemanticSegmentation(minimal_config(image_size=TILE, **sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = 800
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        corners = generator.integers(0, 512 - TILE + 1, (8, 2))
        crops = [np.s_[..., top : top + TILE, left : left + TILE] for top, left in corners]
        loss = model(
            torch.stack([pixels[crop] for crop in crops]), labels=torch.stack([labels[crop] for crop in crops])
        ).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def border_ratio(probabilities, shifts, distance):
    """Return the mean step across tile borders over that across other token borders, of maps with shifted grids.

    With all shifts by whole tokens every token border is a tile border in one of the maps, so that what is on the
    ground there cancels out.
    """
    at_tiles, elsewhere = [], []
    for values, shift in zip(probabilities, shifts):
        for axis in (1, 2):
            steps = np.abs(np.diff(values, axis=axis)).mean((0, 3 - axis))
            borders = np.arange(1, values.shape[axis])
            tokens, tiles = borders % 8 == 0, (borders + shift) % distance == 0
            at_tiles.append(steps[tokens & tiles])
            elsewhere.append(steps[tokens & ~tiles])
    return np.concatenate(at_tiles).mean() / np.concatenate(elsewhere).mean()


@pytest.mark.slow
def test_a_trained_model_maps_alike_wherever_its_tiles_lie(trained, tmp_path, capsys):
    def predict(name, **options):
        return read(predict_scene(trained, processor(), SAMPLE, tmp_path / f"{name}.tif", progress=False, **options))[0]

    first = predict("first", layers=["probabilities"])
    shares = np.bincount(first.ravel(), minlength=3) / first.size
    assert (shares > 0.05).all(), shares
    equal = {
        name: (predict(name, **options) == first).mean()
        for name, options in {
            "overlap 0.75": {"overlap": 0.75},
            "shift 40 px": {"shift": 40},
            "tiles of 48 px": {"tile_size": 48},
            "tiles of 128 px": {"tile_size": 128},
        }.items()
    }
    hard = predict("hard", overlap=0.0)
    equal["shift 40 px without overlap"] = (predict("hard shifted", overlap=0.0, shift=40) == hard).mean()
    shifts, maps = range(0, TILE // 2, 8), []
    for shift in shifts:
        predict(f"shift{shift}", shift=shift, layers=["probabilities"])
        maps.append(read(tmp_path / f"shift{shift}_probabilities.tif"))
    ratio = border_ratio(maps, shifts, TILE // 2)
    accuracy = (first == land_cover().numpy()).mean()
    report = [f"shares {shares.round(3)}", f"accuracy {accuracy:.3f}", f"step ratio {ratio:.3f}"]
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(report + [f"{name}: {share:.2%} equal" for name, share in equal.items()]))
    # How many pixels change depends on the network and its training. Blending leaves less than half of the changes.
    assert min(equal["shift 40 px"], equal["overlap 0.75"]) >= 0.98
    changes = {name: 1 - share for name, share in equal.items()}
    assert changes["shift 40 px"] < 0.5 * changes["shift 40 px without overlap"]
    assert changes["overlap 0.75"] < 0.5 * changes["shift 40 px without overlap"]
    assert ratio <= 1.1


def test_blending_leaves_no_step_at_tile_borders(tmp_path):
    scene, model = write_scene(tmp_path / "scene.tif", width=128, height=96), segmenter()
    ratios = {}
    for overlap, distance in ((0.0, 32), (0.5, 16)):
        maps, shifts = [], range(0, distance, 8)
        for shift in shifts:
            path = tmp_path / "map.tif"
            options = {
                "overlap": overlap,
                "shift": shift,
                "layers": ["probabilities"],
                "progress": False,
                "overwrite": True,
            }
            predict_scene(model, processor(), scene, path, **options)
            maps.append(read(tmp_path / "map_probabilities.tif")[:, 32:-32, 32:-32])
        ratios[overlap] = border_ratio(maps, shifts, distance)
    assert ratios[0.0] > 1.1, ratios
    assert ratios[0.5] < 1.1, ratios
