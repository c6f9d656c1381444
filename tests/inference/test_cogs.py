"""Cloud-optimised GeoTIFFs do not depend on the number of threads that compress their blocks."""

import os

import numpy as np
import pytest
import rasterio.shutil
from affine import Affine

from spectralgpt_hf.inference.cogs import write_cog
from spectralgpt_hf.modeling.tiling import Box


@pytest.mark.parametrize(
    ("dtype", "interleave", "count"), [("uint8", "band", 1), ("int8", "pixel", 5), ("float32", "pixel", 3)]
)
def test_one_thread_and_several_write_the_same_bytes(dtype, interleave, count, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 9, (count, 1100, 700)).astype(dtype)
    copy, used = rasterio.shutil.copy, []

    def copy_with(threads):
        def run(*paths, **options):
            used.append(options["num_threads"])
            return copy(*paths, **options | {"num_threads": threads})

        return run

    files = []
    for threads in (1, 4):
        monkeypatch.setattr(rasterio.shutil, "copy", copy_with(threads))
        scratch = tmp_path / str(threads)
        scratch.mkdir()
        options = {"shape": (1100, 700), "crs": None, "transform": Affine.identity(), "interleave": interleave}
        nodata = {"uint8": 255, "int8": -128}.get(dtype, float("nan"))
        path = tmp_path / f"{threads}.tif"
        write_cog(path, [(Box(0, 0, 700, 1100), pixels)], scratch, count=count, dtype=dtype, nodata=nodata, **options)
        files.append(path.read_bytes())
    assert used == ["all_cpus"] * 2
    assert files[0] == files[1]
    assert os.listdir(tmp_path / "4") == []
