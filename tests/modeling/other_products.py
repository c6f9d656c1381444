"""Files and catalogue items of other sensors, with the names, metadata and scales of the real products."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from tests.modeling.products import write_geotiff


# Reflectance of each pixel of band k is (k + 1) / 20 plus a gradient: a different level for each band.
SIDE = 32


def reflectance(number: int) -> np.ndarray:
    return 0.05 * (number + 1) + np.add.outer(np.arange(SIDE), np.arange(SIDE)) * 1e-4


@dataclass(frozen=True)
class OtherProduct:
    """A product on disk.

    Attributes:
        source: What a user passes.
        sensor: Name of its sensor.
        level: Reflectance of its band 0 at the upper left pixel, and of its others by their number.
    """

    source: Any
    sensor: str


def _stored(number: int, scale: float, offset: float = 0.0, dtype: str = "uint16") -> np.ndarray:
    return np.rint((reflectance(number) - offset) / scale).astype(dtype)[None]


def _landsat(folder: Path, name: str, bands: str, sensor: str) -> OtherProduct:
    for number, band in enumerate(bands.split()):
        pixels = _stored(number, 2.75e-5, -0.2)
        write_geotiff(folder / f"{name}_SR_{band}.TIF", pixels, 30, nodata=0, compress="deflate")
    write_geotiff(folder / f"{name}_QA_PIXEL.TIF", np.full((1, SIDE, SIDE), 21824, np.uint16), 30)
    write_geotiff(folder / f"{name}_ST_B{'10' if sensor == 'landsat-8' else '6'}.TIF", _stored(9, 2.75e-5), 30)
    (folder / f"{name}_MTL.txt").write_text("GROUP = LANDSAT_METADATA_FILE")
    return OtherProduct(folder, sensor)


def landsat_9_folder(folder: Path) -> OtherProduct:
    name = "LC09_L2SP_193026_20220316_20220318_02_T1"
    return _landsat(folder, name, "B1 B2 B3 B4 B5 B6 B7", "landsat-8")


def landsat_7_folder(folder: Path) -> OtherProduct:
    return _landsat(folder, "LE07_L2SP_193026_20020316_20200916_02_T1", "B1 B2 B3 B4 B5 B7", "landsat-7")


def landsat_8_item(folder: Path) -> OtherProduct:
    """An item of the Planetary Computer's landsat-c2-l2, whose keys are names of Sentinel-2 bands too."""
    keys = {"coastal": "B1", "blue": "B2", "green": "B3", "red": "B4", "nir08": "B5", "swir16": "B6", "swir22": "B7"}
    assets = {}
    for number, (key, band) in enumerate(keys.items()):
        file = folder / f"LC08_L2SP_193026_20220316_20220321_02_T1_SR_{band}.TIF"
        write_geotiff(file, _stored(number, 2.75e-5, -0.2), 30, nodata=0)
        radiometry = [{"scale": 2.75e-5, "offset": -0.2, "nodata": 0, "data_type": "uint16"}]
        described = [{"name": f"OLI_{band}", "common_name": key}]
        assets[key] = {"href": str(file), "eo:bands": described, "raster:bands": radiometry}
    properties = {"platform": "landsat-8", "instruments": ["oli", "tirs"], "datetime": "2022-03-16T10:00:00Z"}
    item = {"type": "Feature", "id": "LC08_L2SP_193026_20220316_02_T1", "properties": properties, "assets": assets}
    return OtherProduct(item, "landsat-8")


def _hls(folder: Path, kind: str, bands: str, tags: dict[str, str], sensor: str) -> OtherProduct:
    name = f"HLS.{kind}.T33UUU.2022075T102021.v2.0"
    for number, band in enumerate(bands.split()):
        path = folder / f"{name}.{band}.tif"
        write_geotiff(path, _stored(number, 1e-4, dtype="int16"), 30, nodata=-9999)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**tags)
    write_geotiff(folder / f"{name}.Fmask.tif", np.full((1, SIDE, SIDE), 64, np.uint8), 30)
    return OtherProduct(folder, sensor)


def hls_l30_folder(folder: Path) -> OtherProduct:
    tags = {"LANDSAT_PRODUCT_ID": "LC09_L1TP_193026_20220316_20220316_02_T1", "SENSOR": "OLI_TIRS"}
    return _hls(folder, "L30", "B01 B02 B03 B04 B05 B06 B07 B09", tags, "hls-l30")


def hls_s30_folder(folder: Path) -> OtherProduct:
    tags = {"SPACECRAFT_NAME": "Sentinel-2B", "PRODUCT_URI": "S2B_MSIL1C_20220316T102021_N0400_R065_T33UUU.SAFE"}
    return _hls(folder, "S30", "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12", tags, "hls-s30")


def hls_l30_item(folder: Path) -> OtherProduct:
    hls_l30_folder(folder)
    paths = sorted(folder.glob("*.B*.tif"))
    assets = {path.suffixes[-2][1:]: {"href": str(path)} for path in paths}
    properties = {"platform": "landsat-9", "constellation": "landsat", "datetime": "2022-03-16T10:20:21Z"}
    identifier = "HLS.L30.T33UUU.2022075T102021.v2.0"
    return OtherProduct({"type": "Feature", "id": identifier, "properties": properties, "assets": assets}, "hls-l30")


def planetscope_4_file(folder: Path) -> OtherProduct:
    pixels = np.concatenate([_stored(number, 1e-4) for number in range(4)])
    path = folder / "20220316_101112_1035_3B_AnalyticMS_SR.tif"
    return OtherProduct(write_geotiff(path, pixels, 3, nodata=0), "planetscope-4")


def planetscope_8_file(folder: Path) -> OtherProduct:
    names = ["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"]
    pixels = np.concatenate([_stored(number, 1e-4) for number in range(8)])
    path = folder / "20220316_101112_05_2445_3B_AnalyticMS_SR_8b.tif"
    return OtherProduct(write_geotiff(path, pixels, 3, nodata=0, names=names), "planetscope-8")


ENMAP_WAVELENGTHS = np.round(np.linspace(418.416, 2445.53, 32), 3)


def enmap_file(folder: Path) -> OtherProduct:
    stem = "ENMAP01-____L2A-DT0000001234_20220627T104548Z_001_V010303_20230922T131826Z"
    bands = "".join(
        f'<bandID number="{number}"><wavelengthCenterOfBand>{centre}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>6.99</FWHMOfBand><GainOfBand>0.0001</GainOfBand></bandID>"
        for number, centre in enumerate(ENMAP_WAVELENGTHS, 1)
    )
    metadata = f"<level_X><specific><bandCharacterisation>{bands}</bandCharacterisation></specific></level_X>"
    (folder / f"{stem}-METADATA.XML").write_text(metadata)
    pixels = np.concatenate([_stored(number, 1e-4, dtype="int16") for number in range(len(ENMAP_WAVELENGTHS))])
    path = folder / f"{stem}-SPECTRAL_IMAGE.TIF"
    return OtherProduct(write_geotiff(path, pixels, 30, nodata=-32768), "enmap")


def enmap_item(folder: Path) -> OtherProduct:
    """An item of DLR's catalogue: one asset of all bands, described by their wavelengths in micrometres."""
    path = enmap_file(folder).source
    bands = [{"name": f"band_{n}", "center_wavelength": centre / 1000} for n, centre in enumerate(ENMAP_WAVELENGTHS, 1)]
    assets = {"image": {"href": str(path), "eo:bands": bands}, "thumbnail": {"href": "none.jpg"}}
    properties = {"constellation": "EnMAP", "instruments": ["HSI"], "datetime": "2022-06-27T10:45:48Z"}
    return OtherProduct({"type": "Feature", "id": path.stem, "properties": properties, "assets": assets}, "enmap")


TEN_PRODUCTS = (
    landsat_9_folder,
    landsat_7_folder,
    landsat_8_item,
    hls_l30_folder,
    hls_s30_folder,
    hls_l30_item,
    planetscope_4_file,
    planetscope_8_file,
    enmap_file,
    enmap_item,
)
