import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.modeling.stac_assets import read_stac_item
from tests.forked import run_forked
from tests.modeling.damaged import write_outcomes
from tests.modeling.products import write_geotiff, write_safe


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """How reading the damaged inputs ended, in a process that may crash, hang, or eat memory without harm."""
    output = tmp_path_factory.mktemp("outcomes") / "outcomes.jsonl"
    assert run_forked(write_outcomes, tmp_path_factory.mktemp("damaged"), output) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.slow
def test_two_hundred_damaged_inputs_end_in_a_message_that_names_the_file(outcomes):
    assert len(outcomes) >= 200
    wrong = [o for o in outcomes if {o["whole"], o["window"], o["processor"]} - {"read", "refused"}]
    assert wrong == []
    # The processor needs pixels with data; what a file holds in each band is not for the reader to judge.
    not_refused = Counter(o["kind"] for o in outcomes if o["must_fail"] and o["processor"] != "refused")
    assert not_refused == {}
    read = {o["kind"] for o in outcomes if o["must_fail"] and o["whole"] == "read"}
    assert read == {"all nan", "all inf", "all -inf", "all nodata", "all zero"}


def test_what_can_be_read_of_a_damaged_input_is_read_without_nan(outcomes):
    usable = [o for o in outcomes if not o["must_fail"]]
    assert {o["kind"] for o in usable} == {"some nan", "some inf", "some -inf", "negative values"}
    assert {o[way] for o in usable for way in ("whole", "window", "processor")} == {"read"}


def test_damaged_inputs_take_little_memory(outcomes):
    assert max(o["extra_mib"] for o in outcomes) < 300


def image():
    pixels = np.random.default_rng(0).integers(200, 4000, (12, 24, 24)).astype(np.uint16)
    pixels[:, :3] = 0
    return pixels


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The same image in several layouts."""
    path = tmp_path_factory.mktemp("whole") / "a.tif"
    layouts = [
        {"nodata": 0},
        {"compress": "deflate", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"},
        {"driver": "JP2OpenJPEG"},
    ]
    return [write_geotiff(path, image(), names=L2A_BANDS, **layout).read_bytes() for layout in layouts]


def refusal(read):
    """Return the message of a refusal, or what was read."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def ends_well(source, name):
    """Return whether reading gives finite pixels or an error that names the source."""
    end = refusal(lambda: read_raster(source, bands=L2A_BANDS, max_bytes=2**28))
    return name in end if isinstance(end, str) else np.isfinite(end.pixels[:, end.valid]).all()


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_damage_to_the_bytes_ends_in_pixels_or_a_message(contents, data):
    content = bytearray(data.draw(st.sampled_from(contents)))
    # The first kilobyte holds the header and, here, the directory.
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.one_of(st.integers(0, 1000), st.integers(0, len(content) - 1)))
        content[position] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    assert ends_well(content, f"raster of {len(content)} bytes")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_metadata_of_a_safe_ends_in_pixels_or_a_message(safe, data):
    metadata = safe / "MTD_MSIL1C.xml"
    original = metadata.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    metadata.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        assert ends_well(safe, safe.name)
    finally:
        metadata.write_bytes(original)


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    return write_safe(tmp_path_factory.mktemp("safe"), "L1C", [-1000] * 13)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["red", "B02", "Feature", "a.tif"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["href", "B02", "red", "SCL", "eo:bands", "bands", "raster:bands", "scale", "offset", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(assets=json_values, properties=json_values)
def test_any_stac_item_ends_in_layers_or_a_message(assets, properties):
    item = {"type": "Feature", "id": "x", "assets": assets, "properties": properties}
    end = refusal(lambda: read_stac_item(item, "item x"))
    assert "item x" in end if isinstance(end, str) else end.layers
