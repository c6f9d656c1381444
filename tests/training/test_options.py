"""Options of fine-tuning: which checkpoint they name."""

from types import SimpleNamespace

import pytest

from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.training import models
from spectralgpt_hf.training.options import FineTuningOptions


@pytest.mark.parametrize("name", ["tiny", "embedded", "spectralgpt-tiny", str(CHECKPOINT)])
def test_a_model_is_named_by_its_folder_or_by_the_alias_of_an_embedded_checkpoint(name, tmp_path):
    options = FineTuningOptions(output_dir=str(tmp_path), model_name_or_path=name, use_cpu=True)
    assert options.model_name_or_path == str(CHECKPOINT)


def test_a_mistyped_folder_is_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        FineTuningOptions(output_dir=str(tmp_path), model_name_or_path=str(tmp_path / "modle"), use_cpu=True)


def test_the_pretrained_model_is_taken_at_its_revision(tmp_path, monkeypatch):
    asked = []

    def note(*_, revision, **__):
        asked.append(revision)
        raise OSError("asked")

    for name in ("AutoConfig", "SpectralGPTImageProcessor"):
        monkeypatch.setattr(getattr(models, name), "from_pretrained", note)
    options = FineTuningOptions(output_dir=str(tmp_path), model_name_or_path="org/model", revision="v1", use_cpu=True)
    with pytest.raises(OSError, match="asked"):
        models.build_model("segmentation", options, ["a", "b"])
    monkeypatch.setattr(models, "_load_config", lambda _: SimpleNamespace(model_type="spectralgpt"))
    with pytest.raises(OSError, match="asked"):
        models.build_processor(options)
    assert asked == ["v1", "v1"]
