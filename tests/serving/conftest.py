"""One page for all tests of the demo, with small checkpoints and a small limit."""

import re
import socket
import tempfile
import time
from pathlib import Path

import pytest
import rasterio
from rasterio.windows import Window

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.serving.tasks import Models
from tests.serving.checkpoints import save_checkpoint


LIMIT = 2**20


@pytest.fixture(scope="package")
def demo_url(tmp_path_factory):
    """The page's address. What it leaves behind is looked for at the end, before other tests use this process."""
    pytest.importorskip("gradio", reason="needs the extra `serve`")
    from spectralgpt_hf.serving import app

    folder = tmp_path_factory.mktemp("demo")
    tasks = ("features", "classification", "segmentation", "change")
    models = Models(*[save_checkpoint(task, folder / task) for task in tasks])
    temporary = folder / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "MAX_BYTES", LIMIT)
        patch.setattr(tempfile, "tempdir", str(temporary))
        with app.serve(models, port=free_port()) as url:
            yield url
        # Actions that the last visitor did not wait for may still write.
        deadline = time.monotonic() + 30
        while (left := left_behind(temporary)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []


def left_behind(folder: Path) -> list[Path]:
    """Return what is in a folder, apart from what the client, in this process too, fetched into such folders."""
    return [path for path in folder.iterdir() if not re.fullmatch("[0-9a-f]{40}", path.name)]


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> list[Path]:
    """Eight crops of the sample, of different sizes."""
    folder = tmp_path_factory.mktemp("crops")
    paths = []
    with rasterio.open(SAMPLE) as sample:
        for number in range(8):
            size = 64 + 8 * number
            window = Window(40 * number, 30 * number, size, size)
            profile = {"driver": "GTiff", "count": 13, "height": size, "width": size, "dtype": "uint16"}
            place = {"crs": sample.crs, "transform": sample.window_transform(window)}
            path = folder / f"crop_{number}.tif"
            with rasterio.open(path, "w", **profile, **place) as crop:
                crop.write(sample.read(window=window))
                crop.descriptions = sample.descriptions
            paths.append(path)
    return paths
