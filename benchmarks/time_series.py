"""Measure what several dates are worth: attention over dates, their mean and each single date, on a real land-use map.

    python benchmarks/time_series.py ../shared/data/series_slovenia [--checkpoint tiny-zscore] [--seeds 0 1 2]

The folder holds five Sentinel-2 L1C images of one site (13 bands without names, in the usual order), with their dates
in the names, and a map of land use (`*LULC*`). The images are cut into 9 blocks, which the encoder sees one by one, so
that no block knows of another; half of them, as on a chessboard, are held out in turn, and each is scored by a model
that was not trained on it. The encoder is frozen: its tokens are computed once for each date, and only the fusion of
dates and the head of segmentation are trained, by the same batches for every choice of dates. Printed are the mean and
the range over the seeds of the pixel accuracy, of the mean intersection over union of the classes that cover at least
1 %, and of that of each class.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn
from transformers.utils import logging

from spectralgpt_hf import SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.modeling.bands import L1C_BANDS
from spectralgpt_hf.modeling.series import open_series


CLASSES = {1: "cultivated", 2: "forest", 3: "grass", 4: "shrub", 8: "artificial"}
BLOCKS = 3
SIDE = 32
"""Pixels of a block. Each is enlarged to twice as many, so that a token covers 4 x 4 of them."""
ENLARGEMENT = 2
SMALLEST_SHARE = 0.01
RATE = 3e-3


class Site:
    """The encoder's tokens of every block and its four mirror images at every date, and the labels.

    Attributes:
        tokens: (mirrors, blocks, T, N, D).
        labels: (mirrors, blocks, H, W), class numbers, 255 where there is none.
        dates: (1, T), in days.
        names: Names of the classes.
    """

    def __init__(self, folder: Path, checkpoint: str) -> None:
        series = open_series([path for path in sorted(folder.glob("*.tif")) if "LULC" not in path.name])
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
        processor.size = {"height": SIDE * ENLARGEMENT, "width": SIDE * ENLARGEMENT}
        statistics = None
        if processor.measures_pixels:
            statistics = processor.measure_statistics(list(series.images), band_names=L1C_BANDS)
        images = []
        for path in series.images:
            with rasterio.open(path) as file:
                images.append(file.read())
        with rasterio.open(next(folder.glob("*LULC*"))) as file:
            codes = file.read(1)
        self.names = [name for code, name in CLASSES.items() if (codes == code).mean() >= SMALLEST_SHARE]
        numbers = [code for code, name in CLASSES.items() if name in self.names]
        labels = np.full(codes.shape, 255)
        for number, code in enumerate(numbers):
            labels[codes == code] = number
        encoder = SpectralGPTForSemanticSegmentation.from_pretrained(checkpoint).spectralgpt.eval()
        found: list[list[torch.Tensor]] = []
        maps = []
        days = [str(path.stem).rpartition("_")[2] for path in series.images]
        for mirror in ((), (-1,), (-2,), (-2, -1)):
            found.append([])
            for row in range(BLOCKS):
                for column in range(BLOCKS):
                    window = np.s_[..., SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]
                    dates = [np.flip(image[window], mirror) for image in images]
                    inputs = processor(dates, dates=days, band_names=L1C_BANDS, statistics=statistics, warn=False)
                    with torch.no_grad():
                        tokens = encoder(inputs["pixel_values"][0]).last_layer_output
                    found[-1].append(tokens)
                    maps.append(torch.from_numpy(np.flip(labels[window], mirror).copy()))
        self.tokens = torch.stack([torch.stack(blocks) for blocks in found])
        self.labels = torch.stack(maps).unflatten(0, (4, -1)).long()
        self.dates = inputs["dates"]


def train_and_predict(
    site: Site, checkpoint: str, fusion: str, dates: Sequence[int], held_out: Sequence[int], seed: int, steps: int
) -> torch.Tensor:
    """Return the classes (blocks, H, W) that a model predicts for the blocks that it was not trained on."""
    torch.manual_seed(seed)
    model = SpectralGPTForSemanticSegmentation.from_pretrained(
        checkpoint,
        temporal_fusion=fusion,
        num_labels=len(site.names),
        decode_hidden_size=16,
        decode_dropout=0.1,
    ).train()
    grid = (model.config.num_groups, *[SIDE * ENLARGEMENT // model.config.patch_size] * 2)
    days = site.dates[:, dates]

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes, H, W) of tokens (B, T, N, D), as the model does from pixels."""
        every = days.expand(len(tokens), -1)
        fused, _ = model.spectralgpt.fuse_dates(tokens.flatten(0, 1), None, tokens.shape[1], every)
        logits = model.decode_head(model.decode_head.group_fusion(fused, grid))
        return nn.functional.avg_pool2d(logits, ENLARGEMENT)

    # The query starts near 0, where all dates count the same: it needs larger steps to leave it.
    groups: list[dict[str, Any]] = [{"params": list(model.decode_head.parameters()), "lr": RATE}]
    if fusion == "attention":
        groups.append({"params": list(model.spectralgpt.temporal_fusion.parameters()), "lr": 10 * RATE})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    kept = [block for block in range(BLOCKS**2) if block not in held_out]
    counts = site.labels[0, kept].flatten().bincount(minlength=256)[: len(site.names)].float()
    weight = (counts.sum() / counts.clamp(min=1)).sqrt()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        mirror = int(torch.randint(4, (), generator=generator))
        logits = forward(site.tokens[mirror][kept][:, dates])
        loss = nn.functional.cross_entropy(logits, site.labels[mirror][kept], weight, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return forward(site.tokens[0][held_out][:, dates]).argmax(1)


def scores(site: Site, predicted: torch.Tensor) -> list[float]:
    """Return the accuracy, the mean intersection over union and that of each class."""
    labels, known = site.labels[0], site.labels[0] != 255
    found = [
        float(
            ((predicted == number) & (labels == number)).sum()
            / (((predicted == number) & known) | (labels == number)).sum()
        )
        for number in range(len(site.names))
    ]
    return [float((predicted == labels)[known].float().mean()), float(np.mean(found)), *found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of the dated images and the map.")
    parser.add_argument("--checkpoint", default="tiny-zscore", help="Checkpoint whose encoder is used (tiny-zscore).")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60, help="Training steps of each head (60).")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    checkpoint, begin = find_checkpoint(options.checkpoint), time.perf_counter()
    site = Site(options.folder, checkpoint)
    print(f"tokens {tuple(site.tokens.shape)}: {time.perf_counter() - begin:.0f} s", flush=True)
    every = list(range(site.tokens.shape[2]))
    texts = [str(np.datetime64(int(day), "D")) for day in site.dates[0]]
    variants = {text: ("mean", [number]) for number, text in enumerate(texts)}
    variants |= {"mean over dates": ("mean", every), "attention over dates": ("attention", every)}
    print(f"{'':22s}accuracy             mean IoU             {'  '.join(f'{name:19s}' for name in site.names)}")
    known = site.labels[0][site.labels[0] != 255]
    print(f"{'largest class':22s}{float(known.bincount().max() / len(known)):.3f}")
    for name, (fusion, dates) in variants.items():
        rows = []
        for seed in options.seeds:
            predicted = torch.zeros_like(site.labels[0])
            for fold in range(2):
                held_out = [block for block in range(BLOCKS**2) if block % 2 == fold]  # of a chessboard
                predicted[held_out] = train_and_predict(site, checkpoint, fusion, dates, held_out, seed, options.steps)
            rows.append(scores(site, predicted))
        columns = np.array(rows).T
        print(f"{name:22s}" + "  ".join(f"{c.mean():.3f} ({c.min():.3f}-{c.max():.3f})" for c in columns), flush=True)
    print(f"{time.perf_counter() - begin:.0f} s on {torch.get_num_threads()} thread(s), seeds {options.seeds}")


if __name__ == "__main__":
    main()
