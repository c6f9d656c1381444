"""Writers of small files and products in the layouts that users have."""

import zipfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from spectralgpt_hf.modeling.bands import BANDS, L1C_BANDS, L2A_BANDS


ORIGIN = (300000.0, 5800020.0)
SIDE = 24


def write_geotiff(path, pixels, resolution=10.0, origin=ORIGIN, crs="EPSG:32633", names=None, **profile):
    """Write (C, H, W) as it is; `profile` goes to rasterio."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype.name, "crs": crs, **profile}
    if crs is not None:
        profile.setdefault("transform", from_origin(*origin, resolution, resolution))
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as dataset:
        dataset.write(pixels)
        if names is not None:
            dataset.descriptions = tuple(names)
    return path


def file_name(band):
    """Return a band's name as products write it: B02, B8A."""
    return band if band == "B8A" else f"B{int(band[1:]):02d}"


def stored_band(band, resolution):
    """Return the invented numbers of a band in a SAFE: its own level, and a gradient to the east and south."""
    side = SIDE * 10 // resolution
    level = 1200 + 100 * L1C_BANDS.index(band)
    return (level + np.add.outer(np.arange(side), 2 * np.arange(side)))[None].astype(np.uint16)


def write_safe(folder: Path, level: str, offsets=None, quantification=10000, pixels=stored_band) -> Path:
    """Write a product with the real structure, file names and metadata elements.

    Args:
        folder: Where the `.SAFE` folder goes.
        level: "L1C" or "L2A".
        offsets: One for each of the 13 bands, as since baseline 04.00, or None, as before.
        quantification: What reflectance 1 is stored as.
        pixels: Function of the band and the resolution.
    """
    baseline = "0400" if offsets else "0301"
    name = f"S2A_MSI{level}_20220316T102021_N{baseline}_R065_T33UUU_20220316T123456"
    safe = folder / f"{name}.SAFE"
    images = safe / "GRANULE" / f"{level}_T33UUU_A035155_20220316T102159" / "IMG_DATA"
    images.mkdir(parents=True)
    stem = "T33UUU_20220316T102021"
    jp2 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    if level == "L1C":
        for band in L1C_BANDS:
            resolution = BANDS[band].resolution
            write_geotiff(images / f"{stem}_{file_name(band)}.jp2", pixels(band, resolution), resolution, **jp2)
        write_geotiff(images / f"{stem}_TCI.jp2", np.full((3, SIDE, SIDE), 9, np.uint8), **jp2)
    else:
        for resolution in (10, 20, 60):
            subfolder = images / f"R{resolution}m"
            subfolder.mkdir()
            side = SIDE * 10 // resolution
            for band in L2A_BANDS:
                # Every resolution holds the bands that are as fine, but B8 is left out of the coarser ones.
                if BANDS[band].resolution <= resolution and (band, resolution) not in (("B8", 20), ("B8", 60)):
                    path = subfolder / f"{stem}_{file_name(band)}_{resolution}m.jp2"
                    write_geotiff(path, pixels(band, resolution), resolution, **jp2)
            for other in ("AOT", "WVP", "TCI"):
                path = subfolder / f"{stem}_{other}_{resolution}m.jp2"
                write_geotiff(path, np.full((1, side, side), 7, np.uint16), resolution, **jp2)
        classes = np.full((1, SIDE // 2, SIDE // 2), 4, np.uint8)
        classes[0, 0, :4] = [0, 3, 8, 9]
        classes[0, 1, :3] = [6, 10, 11]
        write_geotiff(images / "R20m" / f"{stem}_SCL_20m.jp2", classes, 20, **jp2)
    (safe / f"MTD_MSI{level}.xml").write_text(_metadata(name, level, offsets, quantification))
    return safe


def zip_folder(folder: Path) -> Path:
    """Zip a folder as the archives of products are: the folder itself is the top entry."""
    path = folder.parent / f"{folder.name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def _metadata(name, level, offsets, quantification):
    element, listing = {
        "L1C": ("RADIO_ADD_OFFSET", "Radiometric_Offset_List"),
        "L2A": ("BOA_ADD_OFFSET", "BOA_ADD_OFFSET_VALUES_LIST"),
    }[level]
    added = "".join(f'<{element} band_id="{index}">{value}</{element}>' for index, value in enumerate(offsets or ()))
    added = f"<{listing}>{added}</{listing}>" if offsets else ""
    divisor = {
        "L1C": f'<QUANTIFICATION_VALUE unit="none">{quantification}</QUANTIFICATION_VALUE>',
        "L2A": "<QUANTIFICATION_VALUES_LIST>"
        f'<BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>'
        '<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>',
    }[level]
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level[1:]}_User_Product
    xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level[1:]}.xsd"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2022-03-16T10:20:21.024Z</PRODUCT_START_TIME>
      <PRODUCT_URI>{name}.SAFE</PRODUCT_URI>
      <PROCESSING_BASELINE>{"04.00" if offsets else "03.01"}</PROCESSING_BASELINE>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      {divisor}
      {added}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level[1:]}_User_Product>
"""
