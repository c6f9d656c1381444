"""The pipelines: any input, batches of one size, maps on the grid of their source, and loading from a checkpoint."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from transformers import pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification, SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.configuration_spectralgpt import CUSTOM_PIPELINES, PICTURE_TASKS
from spectralgpt_hf.modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from spectralgpt_hf.modeling.pipeline_spectralgpt import TASKS


CLASSIFICATION, SEGMENTATION = "multispectral-image-classification", "multispectral-image-segmentation"
CHANGE, FEATURES = "multispectral-change-detection", "multispectral-feature-extraction"
MODELS = {
    CLASSIFICATION: SpectralGPTForImageClassification,
    SEGMENTATION: SpectralGPTForSemanticSegmentation,
    CHANGE: SpectralGPTForChangeDetection,
    FEATURES: SpectralGPTModel,
}
LABELS = ["water", "forest", "crops", "urban"]


def make_model(task, **settings):
    torch.manual_seed(0)
    labels = ["unchanged", "changed"] if task == CHANGE else LABELS
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sizes = {"image_size": 32, "num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96}
    return MODELS[task](SpectralGPTConfig.from_preset("tiny", **{**names, **sizes, **settings})).eval()


def make_pipeline(task, processor=None, **settings):
    processor = processor or SpectralGPTImageProcessor()
    return pipeline(task, model=make_model(task, **settings), image_processor=processor, device="cpu")


def image(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(100, 8000, (12, height, width)).astype(np.uint16)


def write(path, pixels, west=400_000):
    profile = {"count": 12, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    transform = from_origin(west, 5_000_000, 10, 10)
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=transform, **profile) as file:
        file.write(pixels)
        file.descriptions = L2A_BANDS
    return path


def scores(result):
    return {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in result}


def test_labels_come_with_scores_for_every_kind_of_input(tmp_path):
    classify, pixels = make_pipeline(CLASSIFICATION), image()
    path = write(tmp_path / "chip.tif", pixels)
    expected = classify(pixels)
    assert {entry["label"] for entry in expected} == set(LABELS)
    assert [entry["score"] for entry in expected] == sorted((entry["score"] for entry in expected), reverse=True)
    assert sum(entry["score"] for entry in expected) == pytest.approx(1)
    for single in (path, str(path), path.read_bytes(), torch.from_numpy(pixels)):
        assert scores(classify(single)) == scores(expected)
    several = [path, pixels, str(path)]
    for inputs in (several, tuple(several), iter(several), (item for item in several), np.stack([pixels] * 3)):
        results = list(classify(inputs))
        assert [scores(result) for result in results] == [scores(expected)] * 3
    assert classify([]) == []


def test_top_k_and_threshold_limit_the_labels():
    classify = make_pipeline(CLASSIFICATION)
    everything = classify(image())
    assert classify(image(), top_k=2) == everything[:2]
    assert classify(image(), threshold=everything[1]["score"]) == everything[:2]
    many = make_pipeline(CLASSIFICATION, problem_type="multi_label_classification")(image())
    assert sum(entry["score"] for entry in many) != pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({"problem_type": "single_label_classification", "num_labels": 3}, lambda logits: logits.softmax(-1)),
        ({"problem_type": "multi_label_classification", "num_labels": 3}, torch.sigmoid),
        ({"problem_type": "regression", "num_labels": 3}, lambda logits: logits),
        ({"problem_type": "regression", "num_labels": 1}, lambda logits: logits),
    ],
)
def test_the_problem_type_decides_what_the_scores_are(settings, activation):
    classify = make_pipeline("multispectral-image-classification", **settings)
    inputs = classify.image_processor(image(), band_names=list(L2A_BANDS), return_tensors="pt")
    with torch.no_grad():
        expected = activation(classify.model(**inputs).logits[0])
    found = {result["label"]: result["score"] for result in classify(image(), band_names=list(L2A_BANDS))}
    names = classify.model.config.id2label
    assert found == pytest.approx({names[i]: value for i, value in enumerate(expected.tolist())}, abs=1e-5)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_features_of_a_padded_image_are_finite_in_half_precision(dtype):
    features = pipeline(
        "multispectral-feature-extraction", model="spectralgpt_hf/assets/spectralgpt-tiny", dtype=dtype or "auto"
    )
    for output in ("pooled", "map"):
        assert torch.isfinite(features(image(66, 66), band_names=list(L2A_BANDS), output=output)).all()


def test_processing_arguments_reach_the_processor():
    classify, pixels = make_pipeline(CLASSIFICATION), image()
    reverse = classify(pixels[::-1], band_names=L2A_BANDS[::-1])
    assert scores(reverse) == scores(classify(pixels))
    mask = np.arange(32)[:, None] * np.ones((1, 32)) < 16
    assert scores(classify(pixels, mask=mask)) != scores(classify(pixels))
    with pytest.raises(TypeError, match="unknown"):
        classify(pixels, unknown=1)


def test_images_of_mixed_sizes_and_masks_are_batched_by_size_and_keep_their_order(monkeypatch):
    classify = make_pipeline(CLASSIFICATION)
    images = [image(32 if i % 3 else 40, seed=i) for i in range(13)]
    images[4][:, :12] = 0  # no data
    expected = [classify(single) for single in images]
    shapes = []
    forward = classify.model.forward

    def spy(pixel_values, **kwargs):
        shapes.append(tuple(pixel_values.shape))
        return forward(pixel_values, **kwargs)

    monkeypatch.setattr(classify.model, "forward", spy)
    for inputs in (images, (single for single in images)):
        shapes.clear()
        results = list(classify(inputs, batch_size=4))
        assert [scores(result) for result in results] == [scores(result) for result in expected]
        assert len(shapes) == 4
        assert max(shape[0] for shape in shapes) == 4


def test_a_generator_is_read_only_as_far_as_its_results_are_taken():
    taken = []

    def images():
        for i in range(100):
            taken.append(i)
            yield image(seed=i)

    results = iter(make_pipeline(CLASSIFICATION)(images(), batch_size=2))
    next(results)
    assert len(taken) <= 10


def test_a_segmentation_lies_on_the_grid_of_its_file(tmp_path):
    segment = make_pipeline(SEGMENTATION)
    pixels = image(44, 36)
    pixels[:, :, :8] = 0
    result = segment(write(tmp_path / "scene.tif", pixels))
    assert result["map"].pixels.shape == (1, 44, 36)
    assert result["map"].crs.to_epsg() == 32633
    assert result["map"].transform == from_origin(400_000, 5_000_000, 10, 10)
    np.testing.assert_array_equal(result["map"].valid, np.broadcast_to(np.arange(36) >= 8, (44, 36)))
    counts = np.bincount(result["map"].pixels[0][:, 8:].ravel(), minlength=4) / (44 * 28)
    assert {entry["id"]: pytest.approx(entry["share"]) for entry in result["labels"]} == {
        i: count for i, count in enumerate(counts) if count
    }
    assert all(entry["label"] == LABELS[entry["id"]] for entry in result["labels"])
    assert [entry["share"] for entry in result["labels"]] == sorted(counts[counts > 0].tolist(), reverse=True)


def test_a_processor_that_wants_statistics_gets_those_of_each_image():
    processor = SpectralGPTImageProcessor(statistics_scope="given")
    extract, pixels = make_pipeline(FEATURES, processor), image()
    statistics = processor.measure_statistics(pixels)
    torch.testing.assert_close(extract(pixels), extract(pixels, statistics=statistics))
    assert not torch.allclose(extract(pixels), extract(pixels, statistics=processor.measure_statistics(image() // 2)))


def test_change_compares_a_pair_under_one_radiometry(tmp_path):
    detect = make_pipeline(CHANGE, image_size=40)
    before, after = image(36, 32), image(36, 32) // 2
    after[:, :9] = 0
    paths = write(tmp_path / "before.tif", before), write(tmp_path / "after.tif", after)
    seen = {}
    forward = detect.model.forward

    def spy(**inputs):
        seen.update(inputs)
        return forward(**inputs)

    detect.model.forward = spy
    result = detect({"before": paths[0], "after": paths[1]})
    assert result["map"].pixels.shape == (1, 36, 32)
    assert result["map"].transform == from_origin(400_000, 5_000_000, 10, 10)
    np.testing.assert_array_equal(result["map"].valid[:, 0], np.arange(36) >= 9)
    # Half the reflectance stays half of it: each date on its own would span the same range.
    values, ratio = seen["pixel_values"][:, :, 16:36], seen["pixel_values_after"][:, :, 16:36]
    offset = values.mean() - 2 * ratio.mean()
    torch.testing.assert_close(values, 2 * ratio + offset, atol=0.01, rtol=0)
    assert seen["attention_mask"].sum() == 4 * 20
    assert seen["attention_mask_after"].sum() == 4 * 16

    for pair in (paths, (before, after)):
        np.testing.assert_array_equal(detect(pair)["map"].pixels, result["map"].pixels)
    for results in (detect([paths, (before, after)]), detect(iter([paths, paths]), batch_size=2)):
        assert [entry["share"] for entry in results] == [result["share"]] * 2
    everything = detect(paths, threshold=0.0)
    assert everything["share"] == 1


def test_a_pair_on_two_grids_and_what_is_no_pair_are_refused(tmp_path):
    detect = make_pipeline(CHANGE)
    first = write(tmp_path / "first.tif", image())
    moved = write(tmp_path / "moved.tif", image(), west=400_010)
    with pytest.raises(ValueError, match=r"first\.tif and .*moved\.tif are not on one grid"):
        detect((first, moved))
    for wrong in (image(), [image(), image()], {"before": image()}):
        with pytest.raises(ValueError, match=r"Expected a pair \(before, after\)"):
            detect(wrong)


def test_features_are_pooled_tokens_or_a_map():
    extract, processor = make_pipeline(FEATURES, image_size=48), SpectralGPTImageProcessor()
    pixels = image(32, 48)
    pixels[:, :, :16] = 0
    inputs = processor(pixels)
    with torch.no_grad():
        outputs = extract.model(**inputs)
        features = extract.model.feature_map(outputs.last_hidden_state, 32, 48, inputs.attention_mask)
    torch.testing.assert_close(extract(pixels), outputs.pooler_output[0])
    torch.testing.assert_close(extract(pixels, output="tokens"), outputs.last_hidden_state[0])
    torch.testing.assert_close(extract([pixels], output="map")[0], features[0])
    with pytest.raises(ValueError, match="`output` must be 'pooled', 'tokens' or 'map', got 'cls'"):
        extract(pixels, output="cls")


def test_half_precision_models_take_what_the_processor_makes():
    extract = make_pipeline(FEATURES)
    expected = extract(image())
    extract.model.bfloat16()
    features = extract(image())
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=0.1, rtol=0.1)


# Checkpoints

# Run in a process of its own: `spectralgpt_hf` cannot be imported, and the module cache is empty.
SCRIPT = """
import sys
sys.modules["spectralgpt_hf"] = None
from pathlib import Path
import numpy as np
import torch
from transformers import pipeline

folder = Path(sys.argv[1])
image = np.load(folder / "image.npy")
results = {}
for task in sys.argv[2:]:
    for source in (folder / task, folder / task / "again"):
        run = pipeline(task, model=str(source), trust_remote_code=True, device="cpu")
        assert type(run).__module__.startswith("transformers_modules."), type(run)
        result = run((image, image[::-1].copy()) if "change" in task else image)
        results[str(source)] = result["map"].pixels if isinstance(result, dict) else result
        if source.name == task:
            run.save_pretrained(source / "again")
try:
    pipeline("image-classification", model=str(folder / sys.argv[2]), trust_remote_code=True, device="cpu")
except ValueError as error:
    results["refused"] = str(error)
torch.save(results, folder / "results.pt")
"""


@pytest.mark.parametrize("task", MODELS)
def test_with_the_package_a_checkpoint_runs_the_code_of_the_package_without_a_prompt(task, tmp_path):
    run = make_pipeline(task)
    run.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["custom_pipelines"] == CUSTOM_PIPELINES
    assert set(CUSTOM_PIPELINES) == set(MODELS)
    for name, (implementation, auto_class) in TASKS.items():
        assert CUSTOM_PIPELINES[name]["impl"] == f"pipeline_spectralgpt.{implementation.__name__}"
        assert CUSTOM_PIPELINES[name]["pt"] == [auto_class.__name__]
    for trust in ({}, {"trust_remote_code": True}):
        loaded = pipeline(task, model=str(tmp_path), device="cpu", **trust)
        assert type(loaded) is type(run)
        assert type(loaded.model) is MODELS[task]
        assert type(loaded.image_processor) is SpectralGPTImageProcessor


@pytest.mark.parametrize("task", PICTURE_TASKS)
def test_pipelines_that_open_pictures_name_the_tasks_that_take_all_bands(task, tmp_path):
    assert set(PICTURE_TASKS[task]) <= set(CUSTOM_PIPELINES)
    for ours in PICTURE_TASKS[task]:
        make_pipeline(ours).save_pretrained(tmp_path / ours)
        with pytest.raises(ValueError, match=f"pictures of three bands. Use the task .*'{ours}'"):
            pipeline(task, model=str(tmp_path / ours), device="cpu", trust_remote_code=True)
        assert AutoImageProcessor.from_pretrained(
            tmp_path / ours, _from_pipeline="image-to-image", trust_remote_code=True
        )


@pytest.mark.slow
def test_without_the_package_checkpoints_run_their_own_code_also_when_saved_again(tmp_path):
    np.save(tmp_path / "image.npy", image())
    for task in MODELS:
        make_pipeline(task).save_pretrained(tmp_path / task)

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *MODELS],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr

    results = torch.load(tmp_path / "results.pt", weights_only=False)
    assert "opens pictures of three bands" in results["refused"]
    for task in MODELS:
        expected = make_pipeline(task)((image(), image()[::-1].copy()) if task == CHANGE else image())
        for found in (results[str(tmp_path / task)], results[str(tmp_path / task / "again")]):
            if task == CLASSIFICATION:
                assert scores(found) == scores(expected)
            elif task == FEATURES:
                torch.testing.assert_close(found, expected)
            else:
                np.testing.assert_array_equal(found, expected["map"].pixels)
