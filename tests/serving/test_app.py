"""The demo's answers, asked for as a program does: results, files, wrong input, and several people at once."""

import re
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers import AutoConfig

from spectralgpt_hf import SpectralGPTForImageClassification
from spectralgpt_hf.serving import tasks
from spectralgpt_hf.serving.tasks import Models
from spectralgpt_hf.serving.uploads import geotiff, read_upload
from spectralgpt_hf.training.models import LAYER_MAPS
from tests.serving.checkpoints import LABELS, save_checkpoint
from tests.serving.conftest import LIMIT


@pytest.fixture
def person(demo_url, tmp_path):
    return Client(demo_url, verbose=False, download_files=tmp_path / "downloads")


def load(client, path):
    """Upload a file; return what the page says of it."""
    return client.predict(handle_file(path), api_name="/load")[0]


def saved(client, what):
    """Return the path of the file that a download button offers."""
    return client.predict(api_name=f"/save_{what}")["value"]


def refusal(client, path):
    with pytest.raises(AppError) as raised:
        load(client, path)
    return str(raised.value)


def test_a_file_is_described_reconstructed_and_offered_as_a_geotiff(person, crops):
    facts = load(person, crops[2])
    assert "<b>crop_2.tif</b> · 80 × 80 px · EPSG:32618 · 13 bands" in facts
    scores = person.predict(75, "Positions", 3, api_name="/reconstruct")
    rows = re.findall(r"<td>([^<]+)</td><td[^>]*>([\d.-]+)</td><td[^>]*>([\d.-]+)</td>", scores)
    assert rows[0][0] == "SpectralGPT"
    assert len(rows) == 4
    assert "76.0% of the tokens are masked" in scores  # 19 of the 25 positions in each of four tiles
    with rasterio.open(saved(person, "reconstruction")) as reconstructed, rasterio.open(crops[2]) as source:
        assert (reconstructed.count, reconstructed.shape, reconstructed.crs) == (12, (80, 80), source.crs)
        assert reconstructed.transform == source.transform
        assert reconstructed.descriptions[8] == "B8A"
        same = reconstructed.read(1) == source.read(1)
    assert same.reshape(10, 8, 10, 8).all(axis=(1, 3)).mean() == 0.24  # visible positions are as they were


def test_classes_scores_and_features_come_from_the_checkpoints(person, crops):
    load(person, crops[0])
    labels, chip = person.predict("True colour", api_name="/classify")
    assert {entry["label"] for entry in labels["confidences"]} == set(LABELS)
    assert Image.open(chip).size == (512, 512)  # enlarged
    (shown, over), legend = person.predict("True colour", api_name="/segment")
    shares = re.findall(r"</i>(\w+)<span>([\d.]+)%", legend)
    assert sum(float(share) for _, share in shares) == pytest.approx(100, abs=0.3)
    assert Image.open(shown).size == Image.open(over).size == (512, 512)
    with rasterio.open(saved(person, "classes")) as classes:
        assert classes.tags()["class_0"] == "water"
        assert classes.read(1).max() < 4
    person.predict(api_name="/embed")
    with rasterio.open(saved(person, "features")) as features:
        assert (features.count, features.shape, features.res) == (48, (8, 8), (80, 80))


def test_eight_people_at_once_get_their_own_results(demo_url, crops, tmp_path):
    def visit(number):
        client = Client(demo_url, verbose=False, download_files=tmp_path / f"downloads_{number}")
        facts = load(client, crops[number])
        client.predict(50 + 5 * number, "Tokens", number, api_name="/reconstruct")
        with rasterio.open(saved(client, "reconstruction")) as reconstructed:
            return facts, reconstructed.transform.c, reconstructed.shape

    with ThreadPoolExecutor(8) as people:
        results = list(people.map(visit, range(8)))
    for number, (facts, west, shape) in enumerate(results):
        with rasterio.open(crops[number]) as crop:
            assert (west, shape) == (crop.transform.c, crop.shape)
        assert f"crop_{number}.tif" in facts


def test_what_is_no_multispectral_image_is_refused_with_a_reason(person, tmp_path):
    (tmp_path / "notes.tif").write_text("not an image")
    assert "notes.tif: expected the bytes of a TIFF" in refusal(person, tmp_path / "notes.tif")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    picture.save(tmp_path / "photo.jpg")
    assert "photo.jpg: expected the bytes of a TIFF" in refusal(person, tmp_path / "photo.jpg")
    picture.save(tmp_path / "photo.tif")
    assert "expected a multispectral image" in refusal(person, tmp_path / "photo.tif")
    (tmp_path / "item.json").write_text('{"type": "Feature", "assets": {"B2": {"href": "http://127.0.0.1:1/x.tif"}}}')
    assert "expected the bytes of a TIFF" in refusal(person, tmp_path / "item.json")


def test_an_upload_over_the_limit_is_refused(person, tmp_path):
    (tmp_path / "large.tif").write_bytes(bytes(LIMIT + 1))
    with pytest.raises(Exception, match=r"413|exceeds|too large"):
        load(person, tmp_path / "large.tif")


def test_the_progress_of_an_upload_that_does_not_begin_is_no_error(demo_url):
    with urllib.request.urlopen(f"{demo_url}gradio_api/upload_progress?upload_id=refused", timeout=60) as answer:
        assert (answer.status, answer.headers.get_content_type(), answer.read()) == (200, "text/event-stream", b"")


def test_results_need_a_file_first(person):
    for endpoint in ("/segment", "/classify"):
        with pytest.raises(AppError, match="Upload a GeoTIFF, or take an example, first"):
            person.predict("True colour", api_name=endpoint)


def test_the_page_may_not_ask_other_servers(demo_url):
    with urllib.request.urlopen(demo_url) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self' ")


def test_two_dates_are_compared_on_one_grid_only(tmp_path, crops):
    models = Models(save_checkpoint("features", tmp_path / "f"), change=save_checkpoint("change", tmp_path / "c"))
    before, after = read_upload(crops[0]), read_upload(crops[0])
    after.raster.pixels[:, :20, :] = 0
    after.raster.valid[:20] = False
    changed, areas = models.compare(before, after, 0.0)
    assert (changed[:20] == 255).all()
    assert (changed[32:] == 1).all()
    assert areas[1].share == (changed[20:] == 1).mean()
    assert areas[1].hectares == pytest.approx((changed == 1).sum() / 100, rel=0.01)
    with pytest.raises(ValueError, match="not on one grid"):
        models.compare(before, read_upload(crops[1]), 0.5)


def test_places_without_data_have_no_features_and_maps_keep_their_grid(tmp_path, crops):
    models = Models(save_checkpoint("features", tmp_path))
    upload = read_upload(crops[0])
    upload.raster.valid[:16, :24] = False
    features = models.embed(upload)
    assert np.isnan(features[:, :2, :3]).all()
    assert np.isfinite(features[:, 2:]).all()
    (tmp_path / "map.tif").write_bytes(
        geotiff(features, upload.raster, [f"f{i}" for i in range(48)], nodata=np.nan, cell=8)
    )
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(crops[0]) as source:
        assert file.bounds == source.bounds


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    pretrained = save_checkpoint("features", tmp_path / "pretrained")
    with pytest.raises(ValueError, match=r"expected .* segmentation .*, found a SpectralGPTForPreTraining"):
        Models(pretrained, segmentation=pretrained)
    SpectralGPTForImageClassification.from_pretrained(pretrained).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="no pretraining decoder"):
        Models(tmp_path / "classifier")


def test_an_adapter_over_a_checkpoint_opens_its_tab_as_the_merged_model_does(tmp_path, crops):
    peft = pytest.importorskip("peft")
    pretrained = save_checkpoint("features", tmp_path / "pretrained")
    config = AutoConfig.from_pretrained(save_checkpoint("classification", tmp_path / "settings"))
    model = SpectralGPTForImageClassification.from_pretrained(pretrained, config=config)
    lora = peft.LoraConfig(r=2, target_modules=LAYER_MAPS, modules_to_save=["classifier"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(tmp_path / "settings" / name, tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    shutil.copy(tmp_path / "settings" / "preprocessor_config.json", tmp_path / "merged")
    scores = []
    for folder in ("adapter", "merged"):
        models = Models(pretrained, classification=tmp_path / folder)
        scores.append(models.classify(read_upload(crops[0]), 30, 30)[0])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert set(scores[0]) == set(LABELS)


def test_a_task_without_a_checkpoint_has_no_tab(tmp_path):
    from spectralgpt_hf.serving.actions import Actions
    from spectralgpt_hf.serving.app import build

    folder = save_checkpoint("features", tmp_path / "features")
    for others, expected in (
        ({}, []),
        ({"segmentation": save_checkpoint("segmentation", tmp_path / "s")}, ["Segment"]),
    ):
        models = Models(folder, **others)
        page = build(models, Actions(models)).get_config_file()
        tabs = [component["props"]["label"] for component in page["components"] if component["type"] == "tabitem"]
        assert tabs == ["Reconstruct", *expected, "Embeddings"]
        offered = {dependency["api_name"] for dependency in page["dependencies"]}
        assert "reconstruct" in offered
        assert offered & {"classify", "segment", "compare"} == ({"segment"} if expected else set())


def test_the_page_shows_the_card_of_each_model_that_it_uses(tmp_path):
    from spectralgpt_hf.serving.actions import Actions
    from spectralgpt_hf.serving.app import build

    folders = [save_checkpoint(task, tmp_path / task / "model") for task in ("features", "segmentation", "change")]
    for folder in folders[:2]:
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\nThe card of {folder.parent.name}")
    models = Models(folders[0], classification="tiny-eurosat", segmentation=folders[1], change=folders[2])
    components = build(models, Actions(models)).get_config_file()["components"]
    labels = [component["props"].get("label") or "" for component in components]
    texts = [component["props"]["value"] for component in components if component["type"] == "markdown"]
    cards = [label.removeprefix("Model card: ") for label in labels if "card" in label]
    assert cards == ["pretraining", "classification", "segmentation"]
    assert "SpectralGPT Tiny, EuroSAT" in texts[1]
    assert texts[0::2] == ["The card of features", "The card of segmentation"]


def test_the_checkpoints_of_this_package_open_their_tabs(tmp_path, monkeypatch):
    from spectralgpt_hf.serving import app

    folders = {task: tmp_path / task for task in ("classification", "segmentation", "change")}
    monkeypatch.setattr("spectralgpt_hf.assets.TASK_CHECKPOINTS", folders)
    monkeypatch.setattr(app, "restrict_gdal", lambda: None)
    monkeypatch.setattr(app, "serve", lambda models, *_: served.append(set(models.pipelines)) or 1 / 0)
    served = []
    pretrained = save_checkpoint("features", tmp_path / "features")
    given = save_checkpoint("classification", tmp_path / "given")
    for task in ("segmentation", "change"):
        save_checkpoint(task, folders[task])
        with pytest.raises(ZeroDivisionError):
            app.run(pretrained)
    with pytest.raises(ZeroDivisionError):
        app.run(pretrained, classification=given)
    assert served == [{"segmentation"}, {"segmentation", "change"}, {"classification", "segmentation", "change"}]


def test_warnings_of_the_reader_and_the_processor_are_shown(person, crops, tmp_path):
    with rasterio.open(crops[0]) as source:
        pixels, profile = source.read(), source.profile
    with rasterio.open(tmp_path / "unnamed.tif", "w", **profile) as unnamed:
        unnamed.write(pixels + 1000)
    facts = load(person, tmp_path / "unnamed.tif")
    assert "B10" in facts.split("notice")[1]  # whose values look as if an offset was left out
    assert "notice" not in load(person, crops[0])


def test_each_checkpoint_is_loaded_at_its_revision(monkeypatch):
    asked = {}
    config = SimpleNamespace(sensor="sentinel-2")
    detector = type("SpectralGPTForChangeDetection", (), {"config": config})()
    model = SimpleNamespace(eval=lambda: None, spectralgpt=None, config=config)

    def load(name, result):
        def note(*_, revision, **__):
            asked[name] = revision
            return result

        return note

    pretrained = (model, {"missing_keys": []})
    monkeypatch.setattr(tasks.SpectralGPTForPreTraining, "from_pretrained", load("model", pretrained))
    monkeypatch.setattr(tasks.SpectralGPTImageProcessor, "from_pretrained", load("processor", None))
    monkeypatch.setattr(tasks, "MultispectralFeatureExtractionPipeline", lambda **_: None)
    monkeypatch.setattr(tasks, "load_model", load("change", (detector, None)))
    monkeypatch.setattr(tasks, "pipeline", lambda *_, model, **__: SimpleNamespace(model=model))
    Models("org/a", change="org/b", revisions={"checkpoint": "v1"})
    assert asked == {"model": "v1", "processor": "v1", "change": "main"}
