"""Labelled samples for fine-tuning: from a reader's rows to batches of model inputs."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.readers.bigearthnet import load_bigearthnet_v1, load_bigearthnet_v2
from ..data.readers.columns import MultispectralImage
from ..data.readers.common import hold_out
from ..data.readers.eurosat import load_eurosat
from ..data.readers.fmow import load_fmow_sentinel
from ..data.readers.folders import load_change_pairs, load_image_folder, load_image_masks
from ..data.readers.oscd import OSCD_CLASSES, load_oscd
from ..data.readers.segmunich import load_segmunich
from ..data.shards.format import find_shards
from ..modeling.geometry import IGNORE_INDEX
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from .augmentation import with_shares, without_shares
from .options import FineTuningOptions, Task
from .transforms import centre_crop


# How many images of the training set its statistics are measured on.
MEASURED = 256

READERS: dict[str, dict[str, Callable[[FineTuningOptions, str], datasets.Dataset]]] = {
    "classification": {
        "eurosat": lambda options, split: load_eurosat(options.data_dir, split),
        "bigearthnet": lambda options, split: load_bigearthnet_v1(options.data_dir, split),
        "bigearthnet_v2": lambda options, split: load_bigearthnet_v2(options.data_dir, split),
        "fmow": lambda options, split: load_fmow_sentinel(options.data_dir, split),
        "folder": lambda options, split: load_image_folder(
            options.data_dir, split, band_names=options.band_names, class_names=options.class_names
        ),
        "shards": lambda options, split: _labelled_shards(options.data_dir, split),
    },
    "segmentation": {
        "segmunich": lambda options, split: load_segmunich(options.data_dir, split, band_names=options.band_names),
        "bigearthnet_v2": lambda options, split: load_bigearthnet_v2(options.data_dir, split, reference_maps=True),
        "folder": lambda options, split: load_image_masks(
            options.data_dir, split, images=options.images, **_maps(options, options.class_names)
        ),
    },
    "change-detection": {
        "oscd": lambda options, split: load_oscd(
            options.data_dir, split, size=options.image_size, stride=options.crop_stride
        ),
        "folder": lambda options, split: load_change_pairs(
            options.data_dir,
            split,
            before=options.before,
            after=options.after,
            **_maps(options, options.class_names or OSCD_CLASSES),
        ),
    },
}


def load_dataset(task: str, options: FineTuningOptions, split: str) -> datasets.Dataset:
    """Return the rows of a split for a task ("classification", "segmentation" or "change-detection").

    Raises:
        ValueError: If there is no such reader, or the reader refuses the data.
        FileNotFoundError: If data are missing.
    """
    readers = READERS[task]
    if options.dataset not in readers:
        raise ValueError(f"`dataset` must be one of {', '.join(readers)} for {task}, got {options.dataset!r}.")
    dataset = readers[options.dataset](options, split)
    if split == options.train_split and options.train_share < 1:
        chosen = hold_out(dataset["id"], options.train_share, options.data_seed or 0)
        dataset = dataset.select([row for row, name in enumerate(dataset["id"]) if name in chosen])
    return dataset


def load_samples(task: Task, options: FineTuningOptions, processor: SpectralGPTImageProcessor) -> dict[str, "Samples"]:
    """Return the samples of each split that the options name, as "train", "validation" and "test".

    Raises:
        ValueError: If statistics of the training set are asked for and the processor does not take them.
        ValueError, FileNotFoundError: As `load_dataset`.
    """
    splits = {"train": options.train_split, "validation": options.validation_split, "test": options.test_split}
    rows = {name: load_dataset(task, options, split) for name, split in splits.items() if split != "none"}
    processor.statistics = None  # what a checkpoint was trained with before
    given = processor.statistics_scope == "given" and processor.measures_pixels
    if options.statistics == "dataset":
        if not given:
            raise ValueError(
                "`statistics: dataset` needs limits that are measured once: pass `--statistics_scope given`, and no "
                "`mean` and `std`."
            )
        processor.statistics = measure_over(rows["train"], processor, options.offset, options.data_seed or 0)
    whole = copy(processor)
    whole.do_resize = False
    samples = {}
    statistics: dict[str, Any] = {}
    for name, dataset in rows.items():
        if given and options.statistics == "scene":
            statistics = measure_by_scene(dataset, processor, options.offset)
        # Random crops are taken from images of the stored size, and resized then.
        crop = (options.eval_resize, options.image_size) if options.eval_resize and name != "train" else None
        uncut = crop is not None or (name == "train" and options.crop_scale is not None)
        chosen = whole if uncut else processor
        samples[name] = Samples(dataset, chosen, statistics, options.offset, crop, options.in_memory)
    return samples


class Samples(torch.utils.data.Dataset):
    """Rows of a reader as inputs of a model.

    Each sample holds `pixel_values` (C, H, W), for two dates also `pixel_values_after`; `attention_mask`
    (and `..._after`) on the grid of the tokens (G, H / 8, W / 8), only where some token has no data; `labels`: a class
    number, a float for each class, or a map (H, W); and `ids`, its number.

    Args:
        dataset: Of one of the readers.
        processor: Normalises the images.
        statistics: What was measured once (`measure_by_scene`), if the processor wants it: one for each
            scene by name, or one for all under "".
        offset: Added to all digital numbers.
        centre_crop: Pixels to resize to, and then to keep of the middle.
        in_memory: Whether to keep what was read, normalised.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: SpectralGPTImageProcessor,
        statistics: Mapping[str, Any] | None = None,
        offset: float | None = None,
        centre_crop: tuple[int, int] | None = None,
        in_memory: bool = False,
    ) -> None:
        self.dataset, self.processor, self.statistics = dataset, processor, statistics
        self.offset, self.centre_crop = offset, centre_crop
        self.kept: dict[int, dict[str, torch.Tensor]] | None = {} if in_memory else None
        features = dataset.features
        self.multi_label, self.dense = "labels" in features, "segmentation_map" in features
        kind = features["segmentation_map"] if self.dense else features.get("label") or features["labels"].feature
        self.class_names: list[str] = list(kind.names)
        self.scenes: list[str] = list(dataset["scene" if "scene" in features else "id"])
        self.windows = list(dataset["window"]) if "window" in features else [None] * len(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.kept is None:
            return self._read(index)
        if index not in self.kept:
            self.kept[index] = self._read(index)
        return self.kept[index]

    def row(self, index: int) -> dict[str, Any]:
        """Return a row of the reader, its pixels as arrays (C, H, W) in digital numbers."""
        row = self.dataset[index]
        if "shape" in row:
            row["pixels"] = np.frombuffer(row["pixels"], "<u2").reshape(row["shape"])
        return row

    def _read(self, index: int) -> dict[str, torch.Tensor]:
        row = self.row(index)
        dates = [row[name] for name in ("pixels", "pixels_after") if name in row]
        maps = [row["segmentation_map"]] * len(dates) if self.dense else None
        statistics = (self.statistics or {}).get(self.scenes[index])
        batch = self.processor.preprocess(
            dates,
            band_names=row["bands"],
            offset=row.get("offset") if self.offset is None else self.offset,
            statistics=statistics and [statistics] * len(dates),
            segmentation_maps=maps,
            return_tensors="pt",
        )
        height, width = batch["pixel_values"].shape[-2:]
        size = self.processor.patch_size
        sample = {"ids": torch.tensor(index), "extent": torch.tensor(np.shape(dates[0])[1:])}
        for date, suffix in enumerate(["", "_after"][: len(dates)]):
            sample[f"pixel_values{suffix}"] = batch["pixel_values"][date]
            if "attention_mask" in batch:
                grid = (-1, height // size, width // size)
                sample[f"attention_mask{suffix}"] = batch["attention_mask"][date].unflatten(0, grid)
        if self.centre_crop:
            image = {name: sample[name][None] for name in sample if name in ("pixel_values", "attention_mask")}
            cropped = without_shares(centre_crop(with_shares(image), *self.centre_crop), image)
            sample |= {name: values[0] for name, values in cropped.items()}
        sample["labels"] = self._labels(row, batch)
        return sample

    def _labels(self, row: Mapping[str, Any], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if self.dense:
            # A pixel without data at either date has no label.
            maps = batch["labels"]
            return maps[0].masked_fill((maps == IGNORE_INDEX).any(0), IGNORE_INDEX)
        if self.multi_label:
            return torch.zeros(len(self.class_names)).index_fill(0, torch.tensor(row["labels"], dtype=torch.long), 1.0)
        return torch.tensor(row["label"])


def collate(samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack samples. Images smaller than the largest are padded at the bottom and the right; `extent` is their size."""
    examples = {name: sample for sample in samples for name in sample}
    batch = {}
    for name, example in examples.items():
        values = [sample[name] if name in sample else _full_mask(sample, example, name) for sample in samples]
        dims = values[0].ndim
        sides = [max(value.shape[axis] for value in values) for axis in (-2, -1)] if dims == 3 else []
        batch[name] = torch.stack([_pad(value, sides) for value in values])
    return batch


def measure_by_scene(
    dataset: datasets.Dataset, processor: SpectralGPTImageProcessor, offset: float | None = None
) -> dict[str, Any]:
    """Measure one radiometry for each scene, or for each pair of dates, of a dataset; by the scenes' names."""
    files = _files(dataset)
    scenes = dict(zip(dataset["scene" if "scene" in dataset.features else "id"], files))
    names = dataset.features["pixels"].band_names
    return {
        scene: processor.measure_statistics(paths, band_names=names, offset=offset)
        for scene, paths in tqdm(scenes.items(), desc="Measuring scenes", disable=None)
    }


def measure_over(
    dataset: datasets.Dataset, processor: SpectralGPTImageProcessor, offset: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Measure one radiometry over up to 256 samples of a dataset."""
    chosen = hold_out(dataset["id"], min(1.0, MEASURED / len(dataset)), seed)
    paths = [path for name, files in zip(dataset["id"], _files(dataset)) if name in chosen for path in files]
    return processor.measure_statistics(paths, band_names=dataset.features["pixels"].band_names, offset=offset)


def class_weights(kind: str, samples: Samples) -> list[float] | None:
    """Return the weight of each class in the loss.

    Args:
        kind: "none"; "balanced", inverse to the share of the class among the labels; "change", as the authors weigh two
            classes with a share p of change: 20 p and 2 (1 - p); or numbers, separated by commas.
        samples: To learn from.

    Raises:
        ValueError: If `kind` is none of these, or does not fit the classes.
    """
    if kind == "none":
        return None
    number = len(samples.class_names)
    if samples.multi_label:
        raise ValueError("`class_weights` are for one class each; these images have several.")
    if kind not in ("balanced", "change"):
        weights = [float(weight) for weight in kind.split(",")]
    elif kind == "change":
        change = _label_shares(samples)[-1]
        weights = [20 * change, 2 * (1 - change)]
    else:
        inverse = [1 / share if share else 0.0 for share in _label_shares(samples)]
        weights = [number * weight / sum(inverse) for weight in inverse]
    if len(weights) != number:
        raise ValueError(f"`class_weights` must be {number} numbers, one for each class, got {kind!r}.")
    return weights


def _label_shares(samples: Samples) -> list[float]:
    """Return the share of each class among the labels of a dataset. Maps are all read."""
    counts = torch.zeros(len(samples.class_names), dtype=torch.float64)
    column = next(name for name in ("segmentation_map", "label", "labels") if name in samples.dataset.features)
    for row in tqdm(samples.dataset.select_columns(column), desc="Counting labels", disable=None):
        values = np.asarray(row[column], dtype=np.int64).ravel()
        counts += torch.from_numpy(np.bincount(values[values != IGNORE_INDEX], minlength=len(counts)))
    return (counts / counts.sum()).tolist()


def _labelled_shards(folder: str, split: str) -> datasets.Dataset:
    dataset = datasets.Dataset.from_parquet([str(path) for path in find_shards(folder, split)])
    if not {"label", "labels"} & set(dataset.features):
        raise ValueError(f"{folder}: expected shards with `label` or `labels`, found {', '.join(dataset.features)}.")
    return dataset


def _maps(options: FineTuningOptions, names: Sequence[str] | None) -> dict[str, Any]:
    if not names:
        raise ValueError("`class_names` must list the classes of the maps, in the order of their codes 0, 1, ...")
    ignored = [IGNORE_INDEX] if options.ignored_codes is None else options.ignored_codes
    return {
        "classes": {code: name for code, name in enumerate(names) if code not in ignored},
        "ignore": ignored,
        "masks": options.masks,
        "band_names": options.band_names,
        "size": options.image_size,
        "stride": options.crop_stride,
    }


def _files(dataset: datasets.Dataset) -> list[list[str]]:
    """Return the paths of each row's dates, without reading any."""
    columns = [name for name in ("pixels", "pixels_after") if name in dataset.features]
    if not isinstance(dataset.features["pixels"], MultispectralImage):
        raise ValueError("Statistics are measured once on files only: for shards set `statistics_scope` to image.")
    references = dataset.select_columns(columns)
    for name in columns:
        references = references.cast_column(name, replace(dataset.features[name], decode=False))
    return [[row[name]["path"] for name in columns] for row in references]


def _full_mask(sample: Mapping[str, torch.Tensor], example: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return the mask of a sample with data everywhere, like that of another."""
    patch = example["pixel_values"].shape[-1] // example[name].shape[-1]
    height, width = sample["pixel_values"].shape[-2:]
    return example[name].new_ones(len(example[name]), height // patch, width // patch)


def _pad(value: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    if not sides or list(value.shape[-2:]) == list(sides):
        return value
    return nn.functional.pad(value, (0, sides[1] - value.shape[-1], 0, sides[0] - value.shape[-2]))
