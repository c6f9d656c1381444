"""One image gives one answer: alone, in a batch, padded, in other processes and threads, and by remote code.

For each dtype of the weights, within its rounding. The other processes know nothing but the saved folders.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
)
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.image_processing_spectralgpt import measure_statistics


FEATURES, CLASSES = "multispectral-feature-extraction", "multispectral-image-classification"
DTYPES = ("float32", "bfloat16", "float16")
# Values are near 1: half of the last bit, times the square root of the operations that it goes through.
ROUNDING = {"float32": 2e-5, "bfloat16": 6e-2, "float16": 6e-3}
BANDS = [*L2A_BANDS[::-1][:11], "mean"]
NAMES = [*L2A_BANDS[::-1][:11], "B1"]

# Run in another process, in the mode "remote" where this package cannot be imported.
SCRIPT = """
import sys
mode, folder, threads, workers = sys.argv[1:]
if mode == "remote":
    sys.modules["spectralgpt_hf"] = None
else:
    import spectralgpt_hf
import json
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

torch.set_num_threads(int(threads))
trust = {"trust_remote_code": True} if mode == "remote" else {}
images = list(np.load(folder + "/images.npy"))
names = json.load(open(folder + "/names.json"))
found = {}
for dtype in ("float32", "bfloat16", "float16"):
    source = {"model": folder + "/classifier", "device": "cpu", **trust}
    run = pipeline("multispectral-image-classification", dtype=dtype, **source)
    assert type(run.model).__module__.startswith("transformers_modules." if mode == "remote" else "spectralgpt_hf.")
    results = run(images, band_names=names, num_workers=int(workers), batch_size=2)
    labels = sorted(run.model.config.label2id)
    scores = [{entry["label"]: entry["score"] for entry in result} for result in results]
    found[dtype] = torch.tensor([[score[label] for label in labels] for score in scores])
settings = {
    "config": AutoConfig.from_pretrained(folder + "/segmenter", **trust).to_dict(),
    "processor": AutoImageProcessor.from_pretrained(folder + "/classifier", **trust).to_dict(),
    "backbone": AutoConfig.from_pretrained(folder + "/backbone", **trust).out_features,
}
json.dump(settings, open(f"{folder}/{mode}.json", "w"), default=str)
save_file(found, f"{folder}/{mode}.safetensors")
"""


def build_config(**options) -> SpectralGPTConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return SpectralGPTConfig(**{**sizes, "image_size": 16, "bands": BANDS, "decode_hidden_size": 16, **options})


def make_images() -> np.ndarray:
    images = np.random.default_rng(0).integers(100, 8000, (5, 12, 24, 24)).astype(np.uint16)
    images[1, :, :8, :10] = 0  # no data
    return images


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Checkpoints with settings that differ from the defaults, and images."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    classifier = SpectralGPTForImageClassification(
        build_config(problem_type="regression", classifier_dropout=0.25, **labels)
    )
    classifier.classifier.weight.data *= 2
    classifier.save_pretrained(folder / "classifier")
    processor = SpectralGPTImageProcessor(
        bands=BANDS,
        normalization="percentile",
        statistics_scope="given",
        statistics=measure_statistics(list(make_images()), BANDS, band_names=NAMES),
        missing_bands="mean",
        size=16,
    )
    processor.save_pretrained(folder / "classifier")
    weights = {"class_weights": [1.0, 2.0, 3.0], "semantic_loss_ignore_index": 200, "decode_dropout": 0.125}
    SpectralGPTForSemanticSegmentation(build_config(**weights, **labels)).save_pretrained(folder / "segmenter")
    backbone = build_config(out_features=["stage1"], group_pooling="concat", apply_layernorm=False)
    SpectralGPTBackbone(backbone).save_pretrained(folder / "backbone")
    np.save(folder / "images.npy", make_images())
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


def scores(results) -> torch.Tensor:
    return torch.tensor([[{e["label"]: e["score"] for e in result}[label] for label in "abc"] for result in results])


def classify(saved: Path, dtype: str):
    return pipeline(CLASSES, model=str(saved / "classifier"), dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_alone_in_batches_and_in_worker_processes(dtype, saved):
    run, images = classify(saved, dtype), list(make_images())
    exact = scores(classify(saved, "float32")(images, band_names=NAMES))
    tolerance = {"rtol": 0, "atol": ROUNDING[dtype]}
    alone = scores([run(image, band_names=NAMES) for image in images])
    torch.testing.assert_close(alone, exact, **tolerance)
    assert (exact.std(0) > 3 * ROUNDING["float16"]).all()  # otherwise any two images would agree
    for options in ({"batch_size": 5}, {"batch_size": 2, "num_workers": 2}, {"num_workers": 1}):
        torch.testing.assert_close(scores(run(images, band_names=NAMES, **options)), alone, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_border_without_data_changes_nothing(dtype, saved):
    processor = SpectralGPTImageProcessor.from_pretrained(saved / "classifier", size=None)
    torch_dtype = getattr(torch, dtype)
    model = SpectralGPTForImageClassification.from_pretrained(saved / "classifier", dtype=torch_dtype).eval()
    image = make_images()[0, :, :16, :16]
    alone = processor(image, band_names=NAMES)
    padded = processor(np.pad(image, ((0, 0), (0, 16), (0, 8))), band_names=NAMES)
    assert padded["attention_mask"].sum() == alone["pixel_values"].shape[1] // 3 * 4
    with torch.no_grad():
        expected = model.spectralgpt(alone["pixel_values"].to(torch_dtype)).last_hidden_state
        grid = padded["pixel_values"].shape[-2] // 8, padded["pixel_values"].shape[-1] // 8
        # Positions are interpolated to another grid; with those of the small one in its corner nothing else differs.
        found = model.spectralgpt(padded["pixel_values"].to(torch_dtype), padded["attention_mask"]).last_hidden_state
        garbage = padded["pixel_values"].clone()
        garbage[..., 16:, :] = garbage[..., 16:] = 1e3
        other = model.spectralgpt(garbage.to(torch_dtype), padded["attention_mask"]).last_hidden_state
    inside = padded["attention_mask"][0].bool()
    assert inside.view(-1, *grid)[:, :2, :2].all()
    torch.testing.assert_close(other[0, inside], found[0, inside], rtol=0, atol=ROUNDING[dtype])
    assert found[0, inside].shape == expected[0].shape


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "threads", "workers"), [("installed", 2, 0), ("remote", 1, 2)])
def test_saved_folders_suffice_in_another_process_with_and_without_the_package(mode, threads, workers, saved, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    arguments = [mode, str(saved), str(threads), str(workers)]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    images, found = list(make_images()), load_file(saved / f"{mode}.safetensors")
    for dtype in DTYPES:
        expected = scores(classify(saved, dtype)(images, band_names=NAMES))
        torch.testing.assert_close(found[dtype], expected, rtol=0, atol=ROUNDING[dtype])
    settings = json.loads((saved / f"{mode}.json").read_text())
    kept = {"class_weights": [1.0, 2.0, 3.0], "semantic_loss_ignore_index": 200, "decode_dropout": 0.125}
    kept |= {"bands": BANDS}
    assert {name: settings["config"][name] for name in kept} == kept
    processor = SpectralGPTImageProcessor.from_pretrained(saved / "classifier").to_dict()
    assert {name: settings["processor"][name] for name in processor} == json.loads(json.dumps(processor, default=str))
    assert settings["backbone"] == ["stage1"]
