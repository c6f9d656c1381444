"""ONNX files compute what PyTorch does, and appear only if they do."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import SpectralGPTForImageClassification, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.conversion import export
from spectralgpt_hf.conversion.export import export_onnx
from tests.modeling.test_pipelines import image
from tests.serving.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return {task: save_checkpoint(task, folder / task) for task in ("features", "classification")}


def run(file, inputs):
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})))


@pytest.mark.slow
def test_an_encoder_gives_the_same_tokens_and_vectors_for_batches_of_any_size(checkpoints, tmp_path):
    size = 48  # and not that of the checkpoint, which the test below exports
    written = export_onnx(checkpoints["features"], tmp_path / "encoder.onnx", image_size=size)
    assert (written.architecture, written.image_size) == ("SpectralGPTModel", size)
    assert written.difference <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    model = SpectralGPTModel.from_pretrained(checkpoints["features"]).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoints["features"])
    for batch in (1, 5):
        images = [image(size, size, seed=seed) for seed in range(batch)]
        images[0][:, :, :20] = 0  # no data
        inputs = dict(processor(images))
        with torch.no_grad():
            expected = model(**inputs)
        found = run(tmp_path / "encoder.onnx", inputs)
        for name in ("last_hidden_state", "pooler_output"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)


def test_a_classifier_is_exported_from_the_command_line_with_the_names_of_its_bands(checkpoints, tmp_path):
    file = tmp_path / "classifier.onnx"
    result = CliRunner().invoke(app, ["export", "onnx", str(checkpoints["classification"]), str(file)])
    assert result.exit_code == 0, result.output
    assert "SpectralGPTForImageClassification, 32 x 32 px, batches of any size" in result.stdout
    assert "Largest difference from PyTorch: " in result.stdout
    inputs = dict(SpectralGPTImageProcessor()([image(seed=seed) for seed in range(3)]))
    inputs["attention_mask"] = torch.ones(3, 64, dtype=torch.int64)
    model = SpectralGPTForImageClassification.from_pretrained(checkpoints["classification"]).eval()
    with torch.no_grad():
        expected = model(**inputs).logits
    np.testing.assert_allclose(run(file, inputs)["logits"], expected, rtol=0, atol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert metadata == {"bands": "B1,B2,B3,B4,B5,B6,B7,B8,B8A,B9,B11,B12", "image_size": "32"}


def test_a_file_that_differs_does_not_appear_and_leaves_the_old_one(checkpoints, tmp_path, monkeypatch):
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"old")
    monkeypatch.setattr(export, "_trace", Program)
    monkeypatch.setattr(export, "_difference", lambda *args: 1.0)
    with pytest.raises(ValueError, match="found a difference of"):
        export_onnx(checkpoints["features"], file)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


class Program:
    """Stands for an exported one."""

    def __init__(self, *_):
        self.model = type("Model", (), {"metadata_props": {}})

    def save(self, path, **_):
        path.write_bytes(b"new")


def test_impossible_sizes_and_names_are_refused(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="`image_size` must be a multiple of 8 px"):
        export_onnx(checkpoints["features"], tmp_path / "encoder.onnx", image_size=20)
    with pytest.raises(ValueError, match=r"ending with \.onnx"):
        export_onnx(checkpoints["features"], tmp_path / "encoder.bin")
