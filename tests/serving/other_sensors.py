"""Checkpoints for other sensors than Sentinel-2, and files with the names and the radiometry of real products."""

from pathlib import Path

import numpy as np
import rasterio

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.modeling.bands import BANDS
from tests.modeling.products import write_geotiff
from tests.serving.checkpoints import save_checkpoint


LANDSAT = {"sensor": "landsat-8", "bands": ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]}
WAVELENGTHS = np.round(np.linspace(418.4, 2445.5, 202), 1).tolist()
SPECTROMETER = {"sensor": "aviris", "bands": [f"{wavelength}nm" for wavelength in WAVELENGTHS]}
DRONE = {"sensor": "drone", "bands": ["edge", "nir"], "wavelengths": [717, 842]}


def save_checkpoints(folder: Path, sensor: dict) -> list[Path]:
    """Save a small checkpoint for each task, in the order of the arguments of `Models`."""
    tasks = ("features", "classification", "segmentation", "change")
    return [save_checkpoint(task, folder / task, **sensor) for task in tasks]


def _sample(bands: str, step: int, size: int) -> np.ndarray:
    """Return reflectance (C, size, size) of every `step`-th pixel of the sample."""
    with rasterio.open(SAMPLE) as sample:
        pixels = sample.read([list(BANDS).index(band) + 1 for band in bands.split()])
    return pixels[:, ::step, ::step][:, :size, :size] / 10_000


def landsat_file(folder: Path, size: int = 96) -> Path:
    """Write surface reflectance of Collection 2 of all bands in one file, as it is stored."""
    reflectance = _sample("B1 B2 B3 B4 B8A B11 B12", 3, size)
    stored = np.rint((reflectance + 0.2) / 2.75e-5).astype(np.uint16)
    path = folder / "LC09_L2SP_013034_20220316_20220318_02_T1_SR.TIF"
    return write_geotiff(path, stored, 30, nodata=0, names=[f"SR_{band}" for band in LANDSAT["bands"]])


def spectrometer_file(folder: Path, size: int = 64) -> Path:
    """Write 202 bands whose wavelengths the file states, with spectra between those of the sample's bands."""
    real = [band for band in BANDS if band != "B10"]
    reflectance = _sample(" ".join(real), 2, size)
    centres = [BANDS[band].wavelength_s2a for band in real]
    order = np.argsort(centres)
    spectra = reflectance[order].reshape(len(real), -1).T
    full = np.stack([np.interp(WAVELENGTHS, np.array(centres)[order], spectrum) for spectrum in spectra], 1)
    pixels = np.rint(full * 10_000).astype(np.int16).reshape(-1, size, size)
    path = write_geotiff(folder / "f100504t01p00r08_refl.tif", pixels, 20, nodata=-9999)
    with rasterio.open(path, "r+") as file:
        for number, wavelength in enumerate(WAVELENGTHS, 1):
            file.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{wavelength / 1000:.4f}")
    return path
