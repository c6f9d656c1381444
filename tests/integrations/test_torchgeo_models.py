"""SpectralGPT in the real TorchGeo, where that is installed (the extra `torchgeo`), with its own dataset classes."""

import sys

import numpy as np
import pytest
import rasterio
import torch

from spectralgpt_hf import SpectralGPTBackbone, SpectralGPTImageProcessor, SpectralGPTModel
from tests.inference.scenes import build


BANDS = [*(f"B{number:02}" for number in range(1, 13)), "B8A"]  # as EuroSAT's files hold them


@pytest.fixture
def checkpoint(tmp_path):
    build(SpectralGPTModel, num_hidden_layers=4).save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


@pytest.fixture
def entry(checkpoint):
    pytest.importorskip("torchgeo", reason="TorchGeo is not installed (extra `torchgeo`)")
    from spectralgpt_hf.integrations.torchgeo_models import register

    return register(checkpoint, "spectralgpt_test")


@pytest.fixture
def eurosat(tmp_path):
    """Write EuroSAT's layout with two classes, each band's pixels around 1000 times its position in the file."""
    from torchgeo.datasets import EuroSAT

    root = tmp_path / "eurosat"
    names = []
    for number, label in enumerate(("AnnualCrop", "Forest")):
        folder = root / EuroSAT.base_dir / label
        folder.mkdir(parents=True)
        for index in range(2):
            names.append(f"{label}_{index}.jpg")
            path = folder / f"{label}_{index}.tif"
            generator = np.random.default_rng(10 * number + index)
            pixels = generator.integers(0, 100, (13, 64, 64)) + 1000 * np.arange(1, 14)[:, None, None]
            with rasterio.open(path, "w", driver="GTiff", count=13, height=64, width=64, dtype="uint16") as file:
                file.write(pixels.astype(np.uint16))
    for split in ("train", "val", "test"):
        (root / f"eurosat-{split}.txt").write_text("\n".join(names))
    return root


def test_without_torchgeo_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    monkeypatch.delitem(sys.modules, "spectralgpt_hf.integrations.torchgeo_models", raising=False)
    with pytest.raises(ImportError, match=r"spectralgpt-hf\[torchgeo\]"):
        import spectralgpt_hf.integrations.torchgeo_models  # noqa: F401


def test_samples_of_eurosat_come_with_the_right_bands(entry, eurosat):
    from torchgeo.datasets import EuroSAT

    plain = EuroSAT(str(eurosat), "train")
    prepared = EuroSAT(str(eurosat), "train", transforms=entry.transforms_for(plain))
    assert len(prepared) == 4
    processor = SpectralGPTImageProcessor.from_pretrained(entry.checkpoint)
    for raw, found in zip(plain, prepared):
        expected = processor(raw["image"], band_names=BANDS, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found["image"], expected)
        assert found["label"] == raw["label"]
    # Position in the file of each band of the checkpoint, found in the pixels alone.
    keep = SpectralGPTImageProcessor(normalization="zscore", mean=[0.0] * 12, std=[1000.0] * 12)
    from spectralgpt_hf.integrations.torchgeo_models import prepare_sample

    image = prepare_sample(plain[0], keep, BANDS)["image"]
    positions = image.mean((1, 2)).round().int() - 1
    assert [BANDS[position] for position in positions] == [*BANDS[:8], "B8A", "B09", "B11", "B12"]


def test_a_subset_of_bands_is_named_by_the_dataset_itself(entry, eurosat):
    from torchgeo.datasets import OSCD, BigEarthNet, EuroSAT

    from spectralgpt_hf.integrations.torchgeo_models import bands_of

    assert bands_of(EuroSAT(str(eurosat), "train", bands=("B04", "B03", "B02"))) == ["B04", "B03", "B02"]
    assert bands_of(EuroSAT) == BANDS
    assert bands_of(OSCD)[:3] == ["B01", "B02", "B03"]
    sentinel_2 = BigEarthNet.__new__(BigEarthNet)
    sentinel_2.bands = "s2"
    assert len(bands_of(sentinel_2)) == 12
    sentinel_2.bands = "all"
    with pytest.raises(ValueError, match="pass `bands='s2'`"):
        bands_of(sentinel_2)
    with pytest.raises(ValueError, match="with names of bands"):
        bands_of(object())


def test_two_dates_share_one_normalisation_and_masks_keep_their_size(entry):
    from spectralgpt_hf.integrations.torchgeo_models import prepare_sample

    processor = SpectralGPTImageProcessor(do_resize=True, size={"height": 16, "width": 16})
    before = torch.randint(500, 3000, (13, 32, 32)).float()
    sample = {"image1": before, "image2": before + 1000, "mask": torch.zeros(32, 32)}
    found = prepare_sample(sample, processor, BANDS)
    assert found["image1"].shape == found["image2"].shape == (12, 32, 32)
    assert (found["image2"] - found["image1"]).min() > 0.2  # per-date limits would make them equal
    both = prepare_sample({"image": torch.stack([before, before + 1000]), "mask": sample["mask"]}, processor, BANDS)
    torch.testing.assert_close(both["image"], torch.stack([found["image1"], found["image2"]]))


def train(task, batch, steps=2):
    """Train, and check that the loss stays finite and that the weights of the first layer move."""
    optimizer = torch.optim.AdamW(task.parameters(), 1e-4)
    task.log = lambda *_, **__: None
    task.log_dict = lambda *_, **__: None
    weight = next(value for name, value in task.named_parameters() if name.endswith("patch_embeddings.weight"))
    for _ in range(steps):
        before = weight.detach().clone()
        loss = task.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        assert (weight != before).any()


def test_the_classification_task_trains_two_steps_on_eurosat(entry, eurosat):
    from torchgeo.datasets import EuroSAT
    from torchgeo.trainers import ClassificationTask

    torch.manual_seed(0)
    dataset = EuroSAT(str(eurosat), "train", transforms=entry.transforms_for(EuroSAT))
    batch = torch.utils.data.default_collate([dataset[index] for index in range(4)])
    task = ClassificationTask(model="spectralgpt_test", in_channels=12, num_classes=2, loss="ce")
    train(task, batch)
    ours = SpectralGPTModel.from_pretrained(entry.checkpoint).eval()
    fresh = ClassificationTask(model="spectralgpt_test", in_channels=12, num_classes=2).eval()
    with torch.no_grad():
        found = fresh.model.backbone.spectralgpt(batch["image"]).pooler_output
        torch.testing.assert_close(found, ours(batch["image"]).pooler_output, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="expected 12, the bands of the checkpoint, got 3"):
        ClassificationTask(model="spectralgpt_test", in_channels=3, num_classes=2)


@pytest.mark.parametrize("decoder", ["upernet", "unet"])
def test_the_segmentation_task_trains_two_steps_and_its_features_are_ours(entry, decoder):
    from torchgeo.trainers import SemanticSegmentationTask

    torch.manual_seed(0)
    task = SemanticSegmentationTask(
        model=decoder, backbone="spectralgpt_test", in_channels=12, num_classes=3, loss="ce", freeze_backbone=False
    )
    batch = {"image": torch.rand(2, 12, 64, 64), "mask": torch.randint(0, 3, (2, 64, 64))}
    task.eval()
    ours = SpectralGPTBackbone.from_pretrained(entry.checkpoint, out_indices=[1, 2, 3, 4]).eval()
    with torch.no_grad():
        found = task.model.encoder(batch["image"])
        expected = ours(batch["image"]).feature_maps[1]
    assert [tuple(features.shape[1:]) for features in found] == [
        (12, 64, 64),
        (0, 32, 32),
        *((32, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)),
    ]
    torch.testing.assert_close(found[3], expected, rtol=0, atol=1e-6)
    task.train()
    train(task, batch)


def test_a_revision_of_a_folder_is_refused(entry):
    from spectralgpt_hf.integrations.torchgeo_models import register

    for folder in (entry.checkpoint, "tiny"):
        with pytest.raises(ValueError, match="only checkpoints on the Hub have revisions"):
            register(folder, "spectralgpt_refused", revision="v1")


def test_the_entry_states_what_torchgeos_weights_state(entry):
    assert entry.meta["in_chans"] == 12
    assert entry.meta["dataset"] == "Sentinel-2"
    assert entry.meta["bands"] == list(SpectralGPTImageProcessor().bands)
    from torchgeo.trainers import ClassificationTask

    task = ClassificationTask(model="spectralgpt_test", in_channels=12, num_classes=2)
    weights = entry.get_state_dict()
    missing, unexpected = task.model.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert missing == ["classifier.weight", "classifier.bias"]
