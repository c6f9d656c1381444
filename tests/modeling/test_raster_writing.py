import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from spectralgpt_hf.modeling import raster_writing
from spectralgpt_hf.modeling.raster_writing import read_back, write_raster
from tests.modeling.products import ORIGIN, write_geotiff
from tests.modeling.test_rasters import numbers


GEOREFERENCE = {"crs": "EPSG:32633", "transform": from_origin(*ORIGIN, 10, 10)}

FULL_DISK = """
import resource, signal, sys
import numpy as np
from rasterio.transform import from_origin
from raster_writing import write_raster
# A limit on the size of files stands for a full disk.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
pixels = np.random.default_rng(0).integers(1, 60000, (3, 600, 600)).astype(np.uint16)
try:
    write_raster(sys.argv[1], pixels, crs="EPSG:32633", transform=from_origin(0, 0, 10, 10))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [1_000, 400_000, 1_500_000, 2_200_000])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path, limit):
    path = write_geotiff(tmp_path / "out.tif", numbers(1))
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    # The module stands alone, and importing it so costs no torch.
    result = subprocess.run(
        command, cwd=Path(raster_writing.__file__).parent, capture_output=True, text=True, timeout=120
    )
    assert "out.tif: cannot be written" in result.stdout, result.stderr
    assert "disk has space" in result.stdout
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]


def test_a_file_that_lacks_blocks_does_not_read_back(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 60000, (2, 600, 600)).astype(np.uint16)
    path = tmp_path / "a.tif"
    write_raster(path, pixels, **GEOREFERENCE)
    read_back(path)
    content = path.read_bytes()
    for share in (0.5, 0.9, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(OSError, match=r"a\.tif: is incomplete or damaged"):
            read_back(path)


def test_what_reads_back_as_something_else_does_not_replace_the_old_file(tmp_path, monkeypatch):
    path = write_geotiff(tmp_path / "out.tif", numbers(1))
    before = path.read_bytes()
    monkeypatch.setattr(rasterio.DatasetReader, "read", lambda self, *_, **options: np.zeros((1, 16, 16), np.uint16))
    with pytest.raises(OSError, match="holds other values than those that were written"):
        write_raster(path, numbers(1), **GEOREFERENCE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]


def test_not_a_number_reads_back_as_itself(tmp_path):
    pixels = numbers(1, dtype=np.float32)
    pixels[0, 3] = np.nan
    write_raster(tmp_path / "a.tif", pixels, nodata=float("nan"), **GEOREFERENCE)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), pixels)


@pytest.mark.parametrize(("shape", "side"), [((2, 64, 40), 64), ((1, 101, 100), 112), ((1, 600, 30), 512)])
def test_the_blocks_of_a_small_image_are_no_larger_than_it_needs(tmp_path, shape, side):
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_raster(tmp_path / "map.tif", pixels, crs=None, transform=None)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.block_shapes[0] == (side, side)
        np.testing.assert_array_equal(file.read(), pixels)
