"""SpectralGPT in torchgeo-bench, which scores features of many models on many datasets.

    torchgeo-bench model._target_=spectralgpt_hf.integrations.torchgeo_bench_model.SpectralGPTBench
        +model.checkpoint=org/spectralgpt-base model.name=spectralgpt dataset.bands=all

The benchmark gives images as they are in the files, and our image processor prepares them: it finds the bands by name
and normalises as the checkpoint was trained. Needs `pip install torchgeo-bench`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..assets import find_checkpoint
from ..modeling.bands import SENTINEL_2
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTModel


try:
    from torchgeo_bench.models.interface import BenchModel
except ImportError as error:
    raise ImportError("This adapter needs torchgeo-bench: `pip install torchgeo-bench` (Python 3.12).") from error


REFLECTANCE = 10.0
"""Datasets whose largest value is at most this store reflectance, others digital numbers, reflectance x 10000."""


class SpectralGPTBench(BenchModel):
    """The pooled output of a checkpoint.

    Args:
        bands: Descriptions of the channels (`BandSpec`), which the benchmark passes.
        checkpoint: Folder, name on the Hub, or alias of an embedded one.
        revision: Branch, tag or commit on the Hub.
        missing_bands: What replaces bands that a dataset lacks, as in the processor. Default: its setting.

    Raises:
        ValueError: If a channel is no band of Sentinel-2, or a revision is given for a folder.
        FileNotFoundError: If there is no such checkpoint.
    """

    def __init__(
        self,
        bands: Sequence[Any],
        checkpoint: str,
        revision: str = "main",
        missing_bands: str | None = None,
        **_: object,
    ) -> None:
        super().__init__(bands=list(bands), normalization="identity")
        self.band_names = [_band_of(band) for band in bands]
        self.scale = 10_000.0 if max(band.max for band in bands) <= REFLECTANCE else 1.0
        checkpoint = find_checkpoint(checkpoint, revision)
        settings: dict[str, Any] = {} if missing_bands is None else {"missing_bands": missing_bands}
        self.processor = SpectralGPTImageProcessor.from_pretrained(checkpoint, revision=revision, **settings)
        self.backbone = SpectralGPTModel.from_pretrained(checkpoint, revision=revision, dtype=torch.float32).eval()

    @torch.no_grad()
    def _forward_patch_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, D) of images (B, C, H, W) as the dataset stores them."""
        inputs = self.processor(list(images * self.scale), band_names=self.band_names, return_tensors="pt")
        return self.backbone(**inputs.to(images.device)).pooler_output


def _band_of(band: Any) -> str:
    """Return the name of a channel's band, which files call "B8A" or "08A - Vegetation Red Edge"."""
    labels = [band.source_name, f"B{band.source_name.split(' - ')[0]}", band.name]
    found = next(filter(None, map(SENTINEL_2.find, labels)), None) if band.sensor == "s2" else None
    if found is None:
        raise ValueError(f"Expected bands of Sentinel-2, found {band.name} of {band.sensor}: choose `dataset.bands`.")
    return found
