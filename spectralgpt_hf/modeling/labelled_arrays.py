# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Read the bands, nodata value, radiometry and georeference that `xarray` data state, without importing `xarray`."""

from typing import Any, NamedTuple

import numpy as np

from .bands import Sensor, wavelength_name
from .identification import sensor_of_tags
from .products import linear


try:
    from affine import Affine
    from rasterio.crs import CRS
except ImportError:
    pass  # they are used in types only


BAND_DIMENSIONS = ("band", "bands", "channel", "wavelength")


class LabelledArray(NamedTuple):
    """The content of an `xarray.DataArray`.

    Attributes:
        pixels: (C, H, W), in digital numbers before `offset` is added.
        band_names: Labels of the bands, or None if they have none.
        sensor: Sensor that the attributes name, or None.
        nodata: Stored value that means no data, before `gain`, or None.
        gain: Factor by which the stored values were multiplied to become digital numbers.
        offset: Number that is still to be added to the digital numbers, or None.
        crs: Coordinate reference system (of `rioxarray`), or None.
        transform: Affine transform (of `rioxarray`), or None.
    """

    pixels: np.ndarray
    band_names: list[str] | None
    sensor: Sensor | None
    nodata: float | None
    gain: float
    offset: float | None
    crs: "CRS | None"
    transform: "Affine | None"


def read_labelled_array(array: Any, name: str) -> LabelledArray:
    """Read an `xarray.DataArray` with one dimension of bands, by default the first.

    Args:
        array: The data.
        name: Name of the image in messages.

    Raises:
        ValueError: If the scale or offset is not finite.
    """
    axis = next((dimension for dimension in array.dims if dimension in BAND_DIMENSIONS), array.dims[0])
    array = array.transpose(axis, ...)
    labels = np.asarray(array.coords[axis].values if axis in array.coords else [])
    band_names = None
    if axis == "wavelength" and labels.dtype.kind in "iuf":
        band_names = [wavelength_name(float(label)) for label in labels]
    elif labels.dtype.kind in "UO" and labels.size:
        band_names = [str(label) for label in labels]
    grid = getattr(array, "rio", None)
    nodata = array.attrs.get("_FillValue", getattr(grid, "nodata", None))
    nodata = None if nodata is None or np.isnan(nodata) else float(nodata)
    gain, added = linear(array.attrs.get("scale_factor", 1), array.attrs.get("add_offset", 0), name)
    pixels = array.values if gain == 1 else array.values.astype(np.float32) * np.float32(gain)
    georeference = (None, None) if grid is None else (grid.crs, grid.transform())
    return LabelledArray(pixels, band_names, sensor_of_tags(array.attrs), nodata, gain, added or None, *georeference)


def join_variables(dataset: Any, name: str, sensor: Sensor) -> Any:
    """Return the variables of an `xarray.Dataset` that have names of bands as one `xarray.DataArray`."""
    names = [variable for variable in dataset.data_vars if sensor.find(str(variable))]
    if not names:
        found = ", ".join(map(str, dataset.data_vars)) or "none"
        raise ValueError(
            f"{name}: expected an xarray.Dataset whose variables have names of bands (B2, red, ...), found {found}. "
            "Pass the variable that holds the image."
        )
    keys = ("_FillValue", "scale_factor", "add_offset")
    radiometry = [{key: dataset[variable].attrs.get(key) for key in keys} for variable in names]
    different = [key for key in keys if any(entry[key] != radiometry[0][key] for entry in radiometry)]
    if different:
        raise ValueError(
            f"{name}: the variables {', '.join(map(str, names))} differ in {', '.join(different)}. Decode them "
            "(`xarray.decode_cf`), scale them to digital numbers (reflectance x 10000), and pass one xarray.DataArray."
        )
    array = dataset[names].to_array("band")
    array.attrs.update({key: value for key, value in radiometry[0].items() if value is not None})
    return array.assign_coords(band=[sensor.find(str(variable)) for variable in names])
