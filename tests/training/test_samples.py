from dataclasses import replace

import datasets
import numpy as np
import pytest
import rasterio
import torch

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_change_pairs, load_image_masks
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.training.augmentation import Augmentation
from spectralgpt_hf.training.batches import collate
from spectralgpt_hf.training.measuring import measure_by_scene
from spectralgpt_hf.training.models import build_processor
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import (
    Samples,
    check_disjoint,
    class_weights,
    load_dataset,
    load_samples,
    with_radiometry,
)
from tests.data.files import write_image


BANDS = list(L2A_BANDS)


def options(folder, **changes) -> FineTuningOptions:
    settings = {"config_name": "tiny", "image_size": 16, "output_dir": str(folder), "use_cpu": True, "seed": 0}
    return FineTuningOptions(data_dir=str(folder), **settings | changes)


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.integers(1, 3000, (12, 24, 24), dtype=np.uint16)
    mask = np.zeros((24, 24), np.uint8)
    mask[:6] = 1
    after = before + np.uint16(1000) * mask
    for name, pixels in (("before", before), ("after", after), ("masks", mask)):
        write_image(tmp_path / name / "a.tif", pixels)
    return load_change_pairs(tmp_path, "all", band_names=BANDS, size=16, stride=8)


def test_both_dates_of_all_windows_share_the_scenes_radiometry(pair):
    processor = SpectralGPTImageProcessor(statistics_scope="given")
    samples = Samples(pair, processor, measure_by_scene(pair, processor))
    for sample in samples:
        unchanged = sample["labels"] == 0
        assert torch.equal(sample["pixel_values"][:, unchanged], sample["pixel_values_after"][:, unchanged])
    top, below = samples[0]["pixel_values"], samples[2]["pixel_values"]  # windows 8 px apart
    assert torch.equal(top[:, 8:], below[:, :8])


def test_saturated_values_stay_out_of_the_limits_of_samples_whose_offset_the_reader_applies(tmp_path):
    pixels = np.random.default_rng(0).integers(1001, 3000, (12, 24, 24), dtype=np.uint16)
    pixels[3, 2, 2] = 65535
    path = write_image(tmp_path / "images" / "a.tif", pixels)
    write_image(tmp_path / "masks" / "a.png", np.zeros((24, 24), np.uint8))
    masks = load_image_masks(tmp_path, "all", classes=["x"], band_names=BANDS, size=16, stride=16)
    masks = masks.cast_column("pixels", replace(masks.features["pixels"], offset=-1000))
    processor = SpectralGPTImageProcessor(do_resize=False)
    expected = processor(read_raster(path, window=(0, 0, 16, 16), resolution=None, band_names=BANDS, offset=-1000))
    assert torch.equal(Samples(masks, processor)[0]["pixel_values"], expected["pixel_values"][0])
    assert expected["pixel_values"][0, 3].median() > 0.4  # 65535 - 1000 as a limit would leave 0.03
    beyond = masks[len(masks) - 1]["pixels"]
    assert getattr(beyond, "saturated", None) is None


def test_classes_weigh_by_their_share(pair):
    samples = Samples(pair, SpectralGPTImageProcessor())
    change = torch.stack([sample["labels"] for sample in samples]).float().mean().item()
    assert class_weights("change", samples) == pytest.approx([20 * change, 2 * (1 - change)])
    balanced = class_weights("balanced", samples)
    assert balanced[0] * (1 - change) == pytest.approx(balanced[1] * change)
    assert sum(balanced) == pytest.approx(2)
    assert class_weights("0.4,1.6", samples) == [0.4, 1.6]
    assert class_weights("none", samples) is None
    with pytest.raises(ValueError, match="must be 2 numbers"):
        class_weights("1", samples)


def test_shards_are_read_where_they_lie_without_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [ShardRow(id=str(i), pixels=np.full((12, 16, 16), i + 1, np.uint16), bands=BANDS, label=i) for i in (0, 1)]
    write_shards(rows, tmp_path / "shards", class_names=["a", "b"])
    dataset = load_dataset("classification", options(tmp_path / "shards", dataset="shards"), "train")
    assert [int(row["pixels"][0, 0, 0]) for row in dataset] == [1, 2]
    assert dataset.cache_files == []
    assert not (tmp_path / "cache").exists()


def test_shards_with_labels_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 3000, (3, 12, 16, 16), dtype=np.uint16)
    rows = [ShardRow(id=str(i), pixels=image, bands=BANDS, labels=[i, 2]) for i, image in enumerate(images)]
    write_shards(rows, tmp_path, class_names=["a", "b", "c"], multi_label=True)
    dataset = load_dataset("classification", options(tmp_path, dataset="shards"), "train")
    samples = Samples(dataset, SpectralGPTImageProcessor())
    assert samples.class_names == ["a", "b", "c"]
    assert samples.multi_label
    assert [sample["labels"].tolist() for sample in samples] == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    assert torch.equal(
        samples[1]["pixel_values"], SpectralGPTImageProcessor()(images[1], band_names=BANDS)["pixel_values"][0]
    )


def write_classes(folder) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for number, size in enumerate((16, 24, 40)):
            pixels = rng.integers(1, 3000, (12, size, size), dtype=np.uint16)
            pixels[:, :8, :8] = 0  # no data
            write_image(folder / name / f"{number}.tif", pixels)


def test_random_crops_of_images_of_any_size_carry_their_pixels_without_data_along(tmp_path):
    write_classes(tmp_path)
    settings = options(
        tmp_path, band_names=BANDS, train_split="all", validation_split="none", test_split="none", crop_scale=1.0
    )
    train = load_samples("classification", settings, SpectralGPTImageProcessor(size=16))["train"]
    batch = collate([train[index] for index in range(len(train))])
    assert batch["pixel_values"].shape == (6, 12, 40, 40)
    crops = Augmentation(settings, num_classes=2)(batch, epoch=0)
    assert crops["pixel_values"].shape == (6, 12, 16, 16)
    assert crops["attention_mask"].shape == (6, 4, 2, 2)
    # A quarter of a 16 px image is missing, and less of the larger ones.
    assert crops["attention_mask"][0].sum() == 12
    assert torch.equal(crops["labels"], torch.eye(2).repeat_interleave(3, 0))


def test_what_a_sample_becomes_depends_on_its_number_and_the_epoch_alone(tmp_path):
    write_classes(tmp_path)
    settings = options(
        tmp_path, band_names=BANDS, train_split="all", validation_split="none", test_split="none", crop_scale=0.2
    )
    train = load_samples("classification", settings, SpectralGPTImageProcessor(size=16))["train"]
    augment = Augmentation(settings)
    together = augment(collate([train[2], train[5]]), epoch=3)["pixel_values"]
    alone = augment(collate([train[5]]), epoch=3)["pixel_values"]
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-5)
    assert not torch.allclose(alone, augment(collate([train[5]]), epoch=4)["pixel_values"])


def test_mixed_images_carry_the_pixels_without_data_of_both_along(tmp_path):
    write_classes(tmp_path)
    settings = options(tmp_path, band_names=BANDS, validation_split="none", mixup=0.8, cutmix=1.0)
    samples = Samples(load_dataset("classification", settings, "all"), SpectralGPTImageProcessor(size=16))
    batch = collate([samples[0], samples[1]])
    assert batch["attention_mask"][:, 0, 0, 0].tolist() == [0, 1]
    epochs = [Augmentation(settings, num_classes=2)(batch, epoch) for epoch in range(20)]
    kept = torch.stack([mixed["attention_mask"][:, 0, 0, 0] for mixed in epochs])
    # The image without data there gets it from the other one at times, and the other one loses it at times.
    assert all(0 < share < 1 for share in kept.float().mean(0).tolist())


def test_a_share_of_the_training_split_is_the_same_each_time(tmp_path):
    write_classes(tmp_path)
    settings = options(tmp_path, band_names=BANDS, train_split="all", train_share=0.5, data_seed=1)
    chosen = load_dataset("classification", settings, "all")["id"]
    assert len(chosen) == 3
    assert list(chosen) == list(load_dataset("classification", settings, "all")["id"])


def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="one of segmunich, bigearthnet-v2, folder for segmentation, got 'oscd'"):
        load_dataset("segmentation", options(tmp_path, dataset="oscd"), "train")


def test_what_the_saved_processor_makes_of_a_file_is_what_was_scored(tmp_path):
    write_classes(tmp_path)
    settings = options(
        tmp_path,
        band_names=BANDS,
        train_split="all",
        validation_split="none",
        test_split="all",
        crop_scale=0.2,
        eval_resize=20,
    )
    samples = load_samples("classification", settings, build_processor(settings))
    samples["train"].processor.save_pretrained(tmp_path / "saved")
    saved = SpectralGPTImageProcessor.from_pretrained(tmp_path / "saved")
    for number, path in enumerate(sorted(tmp_path.glob("[ab]/*.tif"))):
        served = saved(str(path), band_names=BANDS, return_tensors="pt")
        assert torch.equal(served["pixel_values"][0], samples["test"][number]["pixel_values"])
        # 8 of 16 px become 10 of 20, of which the crop keeps 8: the whole first token of each group.
        masks = (
            served.get("attention_mask", torch.ones(1)),
            samples["test"][number].get("attention_mask", torch.ones(1)),
        )
        assert torch.equal(masks[0].flatten(), masks[1].flatten())
    assert samples["test"][0]["attention_mask"].tolist() == [[[0, 1], [1, 1]]] * 4
    assert samples["train"][1]["pixel_values"].shape == (12, 24, 24)  # random crops are taken from all pixels


def write_scenes(folder) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(1, 3000, (12, 40, 24), dtype=np.uint16)
        pixels[:, :9, :24] = 0  # the first tiles have no data
        write_image(folder / "images" / f"{name}.tif", pixels)
        write_image(folder / "masks" / f"{name}.png", rng.integers(0, 2, (40, 24), dtype=np.uint8))


def test_maps_are_scored_on_the_stored_pixels_in_the_tiles_of_a_scene(tmp_path):
    write_scenes(tmp_path)
    settings = options(
        tmp_path, band_names=BANDS, class_names=["x", "y"], train_split="all", validation_split="none", test_split="all"
    )
    processor = build_processor(settings, "segmentation")
    assert (processor.do_resize, processor.do_center_crop, processor.statistics_scope) == (False, False, "given")
    test = load_samples("segmentation", settings, processor)["test"]
    assert [window[:2] for window in test.windows[:8]] == [[x, y] for y in (0, 8, 16, 24) for x in (0, 8)]
    empty = test[0]
    assert set(empty["labels"].unique().tolist()) <= {0, 1, 255}
    batch = collate([test[index] for index in range(len(test))])
    assert torch.isfinite(batch["pixel_values"]).all()


def test_a_window_without_data_counts_nowhere(tmp_path):
    write_scenes(tmp_path)
    rows = load_image_masks(tmp_path, "all", classes=["x", "y"], band_names=BANDS, size=8)
    samples = Samples(rows, SpectralGPTImageProcessor(do_resize=False))
    assert samples[0]["labels"].eq(255).all()
    assert not samples[0]["pixel_values"].any()


def test_an_offset_and_a_nodata_value_replace_what_the_files_state(tmp_path):
    write_scenes(tmp_path)
    path = tmp_path / "images" / "a.tif"
    with rasterio.open(path, "r+") as file:
        file.offsets = [-1000.0] * 12
    rows = load_image_masks(tmp_path, "all", classes=["x", "y"], band_names=BANDS)
    stored = np.asarray(with_radiometry(rows, 0.0, None)[0]["pixels"]).astype(np.float32)
    assert np.allclose(np.asarray(rows[0]["pixels"])[:, 9:], stored[:, 9:] - 1000)
    assert np.allclose(np.asarray(with_radiometry(rows, -500.0, None)[0]["pixels"])[:, 9:], stored[:, 9:] - 500)


def test_a_nodata_value_reaches_the_reader(tmp_path):
    write_scenes(tmp_path)
    rows = load_image_masks(tmp_path, "all", classes=["x", "y"], band_names=BANDS)
    stored = np.asarray(rows[0]["pixels"])
    value = int(stored[0, 20, 20])
    read = np.asarray(with_radiometry(rows, None, value)[0]["pixels"])
    lacking = (stored == value).any(0)
    assert lacking[20, 20]
    assert not read[:, lacking].any()
    assert np.array_equal(read[:, ~lacking], stored[:, ~lacking])


def test_a_site_in_two_splits_is_refused(tmp_path):
    write_scenes(tmp_path)
    rows = load_image_masks(tmp_path, "all", classes=["x", "y"], band_names=BANDS)
    both = {"train": rows, "test": rows.select([1])}
    with pytest.raises(ValueError, match="must not share a site, but 'b'"):
        check_disjoint(both, {"train": "train", "test": "test"})
    check_disjoint(both, {"train": "all", "test": "all"})
    check_disjoint({"train": rows.select([0]), "test": rows.select([1])}, {"train": "train", "test": "test"})
