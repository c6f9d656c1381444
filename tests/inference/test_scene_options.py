"""Options of `predict_scene` and `embed_scene` change the result and are recorded, in Python as on the command line.

The tests go through the signatures: a new option fails them until it is listed below.
"""

import inspect
import json
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import inference
from spectralgpt_hf.inference import checkpoints, embed_scene, predict_scene
from spectralgpt_hf.modeling.bands import L1C_BANDS
from spectralgpt_hf.modeling.rasters import write_raster
from tests.inference.scenes import change_detector, encoder, processor, read, segmenter, write_scene


ZSCORE = {"normalization": "zscore", "mean": [1500.0] * 12, "std": [700.0] * 12}
REVERSED = list(L1C_BANDS[::-1])

# What the processor and the call need, and a value that changes the map. "(...)" stands for a file of the fixture.
PREDICT: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "after": ({}, {"after": "(after)"}, "(other after)"),
    "threshold": ({}, {"after": "(after)"}, 0.3),
    "layers": ({}, {}, ["entropy"]),
    "area": ({}, {}, "(area)"),
    "area_crs": ({}, {"area": "(area)"}, "(crs)"),
    "band_names": ({}, {}, REVERSED),
    "offset": (ZSCORE, {}, -300),
    "nodata": ({}, {}, "(nodata)"),
    "mask": ({}, {}, "(mask)"),
    "mask_after": ({}, {"after": "(after)"}, "(mask)"),
    "statistics_scope": ({}, {}, "tile"),
    "tile_size": ({}, {}, 40),
    "overlap": ({}, {}, 0.25),
    "shift": ({}, {}, 8),
}
EMBED: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "stride": ({}, {}, 16),
    "dtype": ({}, {}, "int8"),
    **{name: PREDICT[name] for name in ("area", "area_crs", "band_names", "offset", "nodata", "mask")},
    **{name: PREDICT[name] for name in ("statistics_scope", "tile_size", "overlap")},
}
OPERATIONAL = {
    "overwrite": "allows to replace files",
    "batch_size": "changes the speed only",
    "workers": "changes the speed only",
    "memory_limit": "changes the memory only",
    "progress": "shows a bar",
    "tags": "adds metadata, which commands have no option for",
}
ELSEWHERE = {name: "tested on Landsat scenes in modeling/test_other_sensors.py" for name in ("sensor", "match")}
SERIES = {name: "tested on series in inference/test_series_scenes.py" for name in ("sources", "dates")}
REQUIRED = {"model", "processor", "source", "destination"}
# Tags that follow from the georeference and the written files.
EVIDENT = {"after", "layers", "area", "area_crs", "statistics_scope", "tile_size", "overlap", "dtype"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    scene = write_scene(folder / "scene.tif", width=64, height=64)

    def darken(pixels):
        pixels[:, 8:48] //= 2

    def brighten(pixels):
        pixels[:, :, :32] *= 2

    with rasterio.open(scene) as dataset:
        value = int(dataset.read(1)[30, 30])
        left, bottom, right, top = dataset.bounds
        mask = np.ones((64, 64), np.uint8)
        mask[:20] = 0
        write_raster(folder / "mask.tif", mask, crs=dataset.crs, transform=dataset.transform)
        zone = dataset.crs.to_epsg()
    middle = ((left + right) / 2, (bottom + top) / 2)
    return {
        "scene": scene,
        "(after)": write_scene(folder / "after.tif", width=64, height=64, change=darken),
        "(other after)": write_scene(folder / "other.tif", width=64, height=64, change=brighten),
        "(area)": (left, bottom, *middle),
        # The same zone with another false easting moves the area by 16 pixels.
        "(crs)": f"+proj=tmerc +lon_0={zone % 100 * 6 - 183} +k=0.9996 +x_0=500160 +datum=WGS84 +units=m",
        "(nodata)": value,
        "(mask)": folder / "mask.tif",
    }


def run(function, files, folder, settings: dict[str, Any], options: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return all pixels that were written, as text, and the tags."""
    folder.mkdir()
    given = {name: files[value] if str(value) in files else value for name, value in options.items()}
    kind = encoder if function is embed_scene else change_detector if "after" in options else segmenter
    path = function(kind(), processor(**settings), files["scene"], folder / "map.tif", progress=False, **given)
    pixels = [read(file).tolist() for file in sorted(folder.glob("*.tif"))]
    with rasterio.open(path) as dataset:
        return repr([pixels, tuple(dataset.transform)]), dataset.tags()


def test_every_option_is_listed():
    for function, examples in ((predict_scene, PREDICT), (embed_scene, EMBED)):
        listed = {*examples, *OPERATIONAL, *ELSEWHERE, *SERIES}
        assert listed == set(inspect.signature(function).parameters) - REQUIRED
    assert {*PREDICT, *EMBED} >= EVIDENT


# Both functions share the reading of scenes: what is tested of one is tested of the other with the slow tests.
CASES = [(predict_scene, name) for name in PREDICT] + [
    pytest.param(embed_scene, name, marks=[] if name in ("stride", "overlap") else pytest.mark.slow) for name in EMBED
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "name"), CASES)
def test_an_option_changes_the_result_and_is_recorded(function, name, files, tmp_path):
    settings, base, value = (PREDICT if function is predict_scene else EMBED)[name]
    before, tags_before = run(function, files, tmp_path / "before", settings, base)
    after, tags = run(function, files, tmp_path / "after", settings, base | {name: value})
    assert after != before
    if name not in EVIDENT:
        given = files[value] if str(value) in files else value
        recorded = json.loads(tags["options"])[name]
        assert recorded == (given.name if hasattr(given, "name") else given)
        assert str(files["scene"].parent) not in repr(tags)
    elif name in ("statistics_scope", "tile_size", "overlap"):
        assert tags != tags_before


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (predict_scene, {"mask_after": "(mask)"}, "`mask_after` is the mask of a second date"),
        (predict_scene, {"area_crs": "EPSG:4326"}, "`area_crs` is the reference system of an `area`"),
        (embed_scene, {"area_crs": "EPSG:4326"}, "`area_crs` is the reference system of an `area`"),
        (predict_scene, {"threshold": 0.5}, "`threshold` between 0 and 1, for change detection"),
    ],
)
def test_an_option_without_effect_is_refused(function, options, message, files, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(function, files, tmp_path / "run", {}, options)
    with pytest.raises(ValueError, match="`overlap` is for maps"):
        embed_scene(encoder(), processor(), files["scene"], tmp_path / "v.parquet", overlap=0.5, progress=False)


@pytest.mark.parametrize("normalization", ["zscore", "sigma_clip"])
@pytest.mark.filterwarnings("ignore")
def test_mean_and_deviation_of_each_tile_replace_those_of_the_processor(normalization, tmp_path):
    scene = write_scene(tmp_path / "tile.tif", width=32, height=32)
    saved = ZSCORE | {"normalization": normalization}
    measured = processor().measure_statistics(scene)
    own = saved | {name: measured[name] for name in ("mean", "std")}
    options = {"progress": False, "layers": ["probabilities"]}
    for name, settings, scope in (("a", saved, "tile"), ("b", own, "scene"), ("c", saved, "scene")):
        path = tmp_path / f"{name}.tif"
        predict_scene(segmenter(), processor(**settings), scene, path, statistics_scope=scope, **options)
    tile, expected, other = (read(tmp_path / f"{name}_probabilities.tif") for name in "abc")
    np.testing.assert_allclose(tile, expected, atol=2e-3)
    assert np.abs(tile - other).max() > 0.01
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.tags()["normalization"] == f"{normalization}, limits per tile"


COMMANDS = {
    "predict": (
        predict_scene,
        "--after b.tif --threshold 0.3 --entropy --confidence --area 1,2,3,4 --area-crs EPSG:4326 --band-names B2,B3 "
        "--offset -1000 --nodata 7 --mask SCL --mask-after m.tif --per-tile --tile-size 64 --overlap 0.25 --shift 8 "
        "--batch-size 3 --workers 4 --memory-limit 512 --overwrite",
        {
            "after": "b.tif",
            "threshold": 0.3,
            "layers": ["confidence", "entropy"],
            "mask_after": "m.tif",
            "overlap": 0.25,
            "shift": 8,
        },
    ),
    "embed": (
        embed_scene,
        "--stride 16 --area 1,2,3,4 --area-crs EPSG:4326 --band-names B2,B3 --offset -1000 --nodata 7 --mask SCL "
        "--per-tile --tile-size 64 --overlap 0.25 --batch-size 3 --workers 4 --memory-limit 512 --overwrite "
        "--dtype int8",
        {"stride": 16, "overlap": 0.25, "dtype": "int8"},
    ),
}
COMMON = {
    "sources": None,
    "area": [1.0, 2.0, 3.0, 4.0],
    "area_crs": "EPSG:4326",
    "band_names": ["B2", "B3"],
    "offset": -1000.0,
    "nodata": 7.0,
    "mask": "SCL",
    "statistics_scope": "tile",
    "tile_size": 64,
    "batch_size": 3,
    "workers": 4,
    "memory_limit": 512 * 2**20,
    "overwrite": True,
    "sensor": "landsat-8",
    "match": "wavelength",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_passes_every_option_on(command, monkeypatch):
    function, arguments, own = COMMANDS[command]
    passed: dict[str, Any] = {}
    loaded: dict[str, Any] = {}

    def load(*args, **options):
        loaded.update(options, args=args)
        return "model", "processor"

    def spy(*args, **options):
        passed.update(options)
        return args[3]

    monkeypatch.setattr(inference, function.__name__, spy)
    for name in ("load_model", "load_encoder"):
        monkeypatch.setattr(checkpoints, name, load)
    loading = "--device cpu --weights-dtype bfloat16 --revision v1 --missing-bands mean"
    loading += " --sensor landsat-8 --match wavelength"
    result = CliRunner().invoke(app, [command, "model", "a.tif", "out.tif", *arguments.split(), *loading.split()])
    assert result.exit_code == 0, result.output
    without_option = {"tags", "dates"}  # commands read the dates of a series from names and metadata
    assert set(passed) == set(inspect.signature(function).parameters) - REQUIRED - without_option
    assert {name: value for name, value in passed.items() if name != "progress"} == COMMON | own
    assert loaded == {
        "args": ("model",),
        "device": "cpu",
        "dtype": "bfloat16",
        "revision": "v1",
        "missing_bands": "mean",
    }
