# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Image processor for SpectralGPT: from any Sentinel-2 image to `pixel_values`, from outputs to labels and maps."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import groupby
from typing import Any, TypedDict

import torch
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict

from .band_plan import BandPlan, plan_bands
from .bands import L2A_BANDS, resolve_band, resolve_bands
from .chips import Chip, Offset, one_each, open_chips
from .configuration_spectralgpt import AUTO_MAP
from .geometry import (
    PreprocessingReport,
    Sizes,
    fit_labels,
    fit_pixels,
    georeference,
    to_source_grids,
    token_validity,
)
from .pixel_statistics import allocate, minimum_maximum, percentiles, quantise_, span, valid_mean
from .radiometry import (
    PERCENTILES,
    Notices,
    Stack,
    look_up_statistics,
    measure_statistics,
    stack_chips,
    warn_once,
)
from .rasters import Raster


NORMALIZATIONS = ("minmax", "percentile", "zscore", "sigma_clip")
STATISTICS_SCOPES = ("image", "given")
MISSING_BANDS = ("error", "nearest", "mean", "mask")

# Values that go through the arithmetic at once: few enough for the last cache of a CPU.
CHUNK_VALUES = 2**22


class SpectralGPTImageProcessorKwargs(TypedDict, total=False):
    """The saved attributes, each of which `from_pretrained` can override."""

    bands: Sequence[str]
    normalization: str
    statistics_scope: str
    mean: Sequence[float] | Mapping[str, float] | None
    std: Sequence[float] | Mapping[str, float] | None
    statistics: Mapping[str, Any] | None
    size: dict[str, int] | int | None
    do_resize: bool
    do_center_crop: bool
    crop_size: dict[str, int] | int | None
    do_pad: bool
    missing_bands: str
    patch_size: int
    spectral_patch_size: int


class SpectralGPTImageProcessor(BaseImageProcessor):  # trf-ignore: TRF057 (the generated texts are about RGB photos)
    r"""
    Brings Sentinel-2 images of any source to the input of SpectralGPT: bands by name, without guesses on radiometry.

    Args:
        bands: Names of the bands that the model expects, in order (`config.bands`). `"mean"` is the mean of the others.
        normalization: `"minmax"`: each band of each image to [0, 1]; `"percentile"`: the same from its 1st to its 99th
            percentile, not clipped; `"zscore"`: by `mean` and `std`; `"sigma_clip"`: `mean` ± 2 `std` to [0, 1],
            clipped and floored to 8 bits.
        statistics_scope: `"image"`: limits are measured on each whole image; `"given"`: on a whole scene or a pair
            (`measure_statistics`), then `statistics` must be passed with the images, or be set here.
        mean: Of each of `bands`, or by band name, in digital numbers; for zscore and sigma_clip.
        std: As `mean`.
        statistics: What `measure_statistics` returned, of a training set, say: used wherever none are passed.
        size: `{"height": ..., "width": ...}` or one number: what images are resized to (bicubic, antialiased).
        do_resize: Whether images are resized, when there is a `size`.
        do_center_crop: Whether only the centre of images is kept, after resizing.
        crop_size: `{"height": ..., "width": ...}` or one number: what is kept of the centre.
        do_pad: Whether images are padded at the bottom and right to whole tokens; otherwise such sizes are refused.
        missing_bands: When the input lacks a band: `"error"`; `"nearest"` takes the nearest in wavelength; `"mean"` the
            mean of those there are; `"mask"` does as nearest, and leaves out the tokens of groups that have none.
        patch_size: Pixels on a side of a token.
        spectral_patch_size: Bands of a token.

    Raises:
        ValueError: If an argument is unknown or has an impossible value.

    Example:

    ```python
    >>> processor = SpectralGPTImageProcessor(bands=model.config.bands)
    >>> outputs = model(**processor("crop.tif", return_tensors="pt"))
    ```
    """

    model_input_names = ["pixel_values", "attention_mask"]
    valid_kwargs = SpectralGPTImageProcessorKwargs  # type: ignore[assignment]
    _auto_class = "AutoImageProcessor"  # saving copies the code beside the settings

    def __init__(
        self,
        bands: Sequence[str] = L2A_BANDS,
        normalization: str = "minmax",
        statistics_scope: str = "image",
        mean: Sequence[float] | Mapping[str, float] | None = None,
        std: Sequence[float] | Mapping[str, float] | None = None,
        statistics: Mapping[str, Any] | None = None,
        size: dict[str, int] | int | None = None,
        do_resize: bool = True,
        do_center_crop: bool = False,
        crop_size: dict[str, int] | int | None = None,
        do_pad: bool = True,
        missing_bands: str = "error",
        patch_size: int = 8,
        spectral_patch_size: int = 3,
        **kwargs: Any,
    ) -> None:
        # Processors saved by version 0.1 call it so.
        statistics_scope = kwargs.pop("normalization_scope", statistics_scope)
        unknown = [name for name in kwargs if name not in ("auto_map", "image_processor_type", "processor_class")]
        if unknown:
            raise ValueError(
                f"Unknown argument {', '.join(unknown)}: expected {', '.join(self.valid_kwargs.__annotations__)}."
            )
        super().__init__()
        self.bands = list(resolve_bands(bands, allow_mean=True))
        self.normalization = normalization
        self.statistics_scope = statistics_scope
        self.mean = _per_band("mean", mean, self.bands)
        self.std = _per_band("std", std, self.bands)
        self.statistics = None if statistics is None else dict(statistics)
        self.size = None if size is None else get_size_dict(size)
        self.do_resize = do_resize
        self.do_center_crop = do_center_crop
        self.crop_size = None if crop_size is None else get_size_dict(crop_size, param_name="crop_size")
        self.do_pad = do_pad
        self.missing_bands = missing_bands
        self.patch_size = patch_size
        self.spectral_patch_size = spectral_patch_size
        self.check()

    def check(self) -> None:
        """Raise a `ValueError` that names the first attribute with an impossible value."""

        def expect(condition: bool, name: str, expected: str) -> None:
            if not condition:
                raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)!r}.")

        for name, allowed in (
            ("normalization", NORMALIZATIONS),
            ("statistics_scope", STATISTICS_SCOPES),
            ("missing_bands", MISSING_BANDS),
        ):
            expect(getattr(self, name) in allowed, name, f"one of {', '.join(map(repr, allowed))}")
        for name in ("do_resize", "do_center_crop", "do_pad"):
            expect(isinstance(getattr(self, name), bool), name, "True or False")
        for name in ("patch_size", "spectral_patch_size"):
            value = getattr(self, name)
            expect(isinstance(value, int) and value > 0, name, "a positive integer")
        multiple = f"a list whose length is a multiple of {self.spectral_patch_size} (`spectral_patch_size`)"
        expect(len(self.bands) > 0 and len(self.bands) % self.spectral_patch_size == 0, "bands", multiple)
        expect(set(self.bands) != {"mean"}, "bands", "a list with at least one band beside 'mean'")
        for name in ("size", "crop_size"):
            if getattr(self, name) is not None:
                sides = [getattr(self, name).get(side) for side in ("height", "width")]
                whole = all(isinstance(side, int) and side > 0 for side in sides)
                expect(whole, name, "{'height': ..., 'width': ...} in whole pixels")
        expect(self.crop_size is not None or not self.do_center_crop, "crop_size", "given for do_center_crop=True")
        if self.normalization in ("zscore", "sigma_clip") and self.statistics_scope == "image":
            for name in ("mean", "std"):
                expect(getattr(self, name) is not None, name, f"given for normalization={self.normalization!r}")
        expect(self.std is None or min(self.std) > 0, "std", "positive")

    @property
    def measures_pixels(self) -> bool:
        """Whether limits are measured, on the image or the scene, rather than known from what is saved."""
        known = self.normalization in ("zscore", "sigma_clip") and self.mean is not None and self.std is not None
        return self.statistics is None and not known

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, and where the code is that reads them."""
        return super().to_dict() | {"auto_map": {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}}

    def preprocess(  # trf-ignore: TRF057
        self,
        images: Any,
        band_names: Sequence[str] | None = None,
        nodata: float | None = None,
        offset: Offset | None = None,
        mask: Any = None,
        statistics: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        segmentation_maps: Any = None,
        return_tensors: str | None = None,
        report: bool = False,
        *,
        do_resize: bool | None = None,
        do_center_crop: bool | None = None,
        size: dict[str, int] | int | None = None,
        crop_size: dict[str, int] | int | None = None,
        missing_bands: str | None = None,
        device: torch.device | str | None = None,
    ) -> Any:
        """Turn images into the input of the model.

        Args:
            images: One image or a list: path, URL, TIFF bytes, STAC item, `Raster`, array or tensor (C, H, W) on any
                device, or `xarray.DataArray`; in digital numbers (reflectance x 10000).
            band_names: Names of the input's bands, in its order, where it does not say them itself.
            nodata: Stored value that means no data. So do 0 in all bands, NaN, and what a file itself declares.
            offset: Added to the digital numbers: a number, one for each band of the input, or by band name. -1000
                brings products of processing baseline 04.00 and later to reflectance x 10000; what a file's metadata
                state is applied without this.
            mask: (H, W) of the image, non-zero where a pixel counts; for files also a path, or `"SCL"` for the
                product's own. A list for several images.
            statistics: From `measure_statistics`: sets the limits of minmax and percentile normalisation alike to the
                1st and 99th percentiles measured, because the extremes of a scene are clouds and glint. zscore and
                sigma_clip take mean and std from it if they have none.
            segmentation_maps: Labels (H, W) of each image, or their paths. They follow the geometry of the images by
                nearest neighbour; pixels without data become 255.
            return_tensors: `"pt"` or `"np"`; torch tensors by default.
            report: Whether to return also what was assumed and done.
            do_resize, do_center_crop, size, crop_size, missing_bands: In place of the attributes, for this call.
            device: Where to compute; by default where the images are.

        Returns:
            `BatchFeature` with `pixel_values` (B, C, H, W), float32; `attention_mask` (B, N), int64, 0 where a token
            has data in less than half of its pixels, and only if there is such a token; `labels` (B, H, W), int64, if
            maps are given. With `report`, a pair of it and a list of one `PreprocessingReport` an image.

        Raises:
            FileNotFoundError: If a path does not exist.
            ValueError: If an image cannot be read, lacks bands, has no data, or differs in size from the others.
        """
        own = self._with(
            do_resize=do_resize,
            do_center_crop=do_center_crop,
            size=size,
            crop_size=crop_size,
            missing_bands=missing_bands,
        )
        chips = open_chips(images, own.bands, band_names, nodata, offset, mask)
        if device is not None:
            chips = [chip.to(device) for chip in chips]
        given = one_each(own.statistics if statistics is None else statistics, len(chips), "statistics")
        sizes = [own._sizes(chip) for chip in chips]
        height, width = _common_size(chips, sizes)
        pixel_values = allocate((len(chips), len(own.bands), height, width), torch.float32, chips[0].pixels.device)
        notices: Notices = defaultdict(list)
        reports: list[PreprocessingReport] = []
        for run in _runs(chips):
            reports += own._normalize(chips[run], given[run], sizes[run.start], pixel_values[run], notices)
        warn_once(notices)

        data = {"pixel_values": pixel_values}
        masks = [report.tokens for report in reports]
        if any(mask is not None for mask in masks):
            number = len(self.bands) // self.spectral_patch_size * (height * width) // self.patch_size**2
            everywhere = torch.ones(number, dtype=torch.int64, device=pixel_values.device)
            data["attention_mask"] = torch.stack([everywhere if mask is None else mask for mask in masks])
        if segmentation_maps is not None:
            maps = one_each(segmentation_maps, len(chips), "segmentation_maps")
            labels = [fit_labels(labels, r.source, r.sizes, r.valid) for labels, r in zip(maps, reports)]
            data["labels"] = torch.stack(labels).to(pixel_values.device)
        batch = BatchFeature(data, tensor_type=return_tensors)
        return (batch, reports) if report else batch

    def measure_statistics(
        self,
        images: Any,
        band_names: Sequence[str] | None = None,
        nodata: float | None = None,
        offset: Offset | None = None,
        mask: Any = None,
    ) -> dict[str, Any]:
        """Measure the `statistics` of one scene, or of several images together, for this processor's bands.

        Arguments as in `preprocess`; see the function `measure_statistics`.
        """
        return measure_statistics(
            images,
            self.bands,
            band_names=band_names,
            nodata=nodata,
            offset=offset,
            mask=mask,
            missing_bands=self.missing_bands,
        )

    def post_process_image_classification(
        self,
        outputs: Any,
        top_k: int | None = 5,
        threshold: float | None = None,
        id2label: Mapping[int, str] | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Turn logits into labels with scores, the best first.

        Args:
            outputs: With `logits` (B, K).
            top_k: How many labels an image at most; None for all.
            threshold: If given, labels do not exclude each other (sigmoid), and those that score at least this are
                returned. Otherwise they do (softmax).
            id2label: Names of the labels (`model.config.id2label`); their numbers without.

        Returns:
            For each image, a list of `{"label": ..., "score": ...}`.
        """
        logits = outputs.logits.float()
        scores, labels = (logits.softmax(-1) if threshold is None else logits.sigmoid()).sort(descending=True)
        return [
            [
                {"label": str(label) if id2label is None else id2label[label], "score": score}
                for score, label in zip(scores[i, :top_k].tolist(), labels[i, :top_k].tolist())
                if threshold is None or score >= threshold
            ]
            for i in range(len(logits))
        ]

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        reports: Sequence[PreprocessingReport] | None = None,
    ) -> list[torch.Tensor] | list[Raster]:
        """Turn logits into maps of class numbers.

        Args:
            outputs: With `logits` (B, K, H, W).
            target_sizes: (height, width) of each map; that of the logits by default.
            reports: Of `preprocess`. The maps get the size and the georeference of the source instead: padding is
                cropped and resizing undone.

        Returns:
            For each image a map (H, W), int64; with `reports` a `Raster` with the map as its one band (uint8, or uint16
            for more than 256 classes), and as its valid mask that of the source.
        """
        maps = [scores.argmax(0) for scores in to_source_grids(outputs.logits, target_sizes, reports)]
        return maps if reports is None else [georeference(*pair) for pair in zip(maps, reports)]

    def post_process_change_detection(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        reports: Sequence[PreprocessingReport] | None = None,
        threshold: float = 0.5,
    ) -> list[torch.Tensor] | list[Raster]:
        """Turn logits (B, 2, H, W) into maps of change: 1 where its probability is at least `threshold`, else 0.

        Other arguments and result as in `post_process_semantic_segmentation`.
        """
        scores = to_source_grids(outputs.logits, target_sizes, reports)
        maps = [(logits.softmax(0)[1] >= threshold).long() for logits in scores]
        return maps if reports is None else [georeference(*pair) for pair in zip(maps, reports)]

    def _with(self, **settings: Any) -> "SpectralGPTImageProcessor":
        """Return a checked copy with these settings in place of its own, except those that are None."""
        copied = copy(self)
        for name, value in settings.items():
            if value is not None:
                is_size = name in ("size", "crop_size")
                setattr(copied, name, get_size_dict(value, param_name=name) if is_size else value)
        copied.check()
        return copied

    def _sizes(self, chip: Chip) -> Sizes:
        original = tuple(chip.pixels.shape[1:])
        resized = cropped = original
        if self.do_resize and self.size is not None:
            resized = cropped = (self.size["height"], self.size["width"])
        if self.do_center_crop and self.crop_size is not None:
            cropped = (self.crop_size["height"], self.crop_size["width"])
        if cropped[0] > resized[0] or cropped[1] > resized[1]:
            raise ValueError(
                f"{chip.name}: expected an image of at least {cropped[0]} x {cropped[1]} px (`crop_size`), found "
                f"{resized[0]} x {resized[1]}. Set a larger `size` to resize to, or `do_center_crop=False`."
            )
        padded = tuple(-(-side // self.patch_size) * self.patch_size for side in cropped)
        if padded != cropped and not self.do_pad:
            raise ValueError(
                f"{chip.name}: height and width must be multiples of {self.patch_size} px (`patch_size`), got "
                f"{cropped[0]} x {cropped[1]}. Set `do_pad=True`, or a `size` to resize to."
            )
        return Sizes(original, resized, cropped, padded)

    def _normalize(
        self,
        chips: list[Chip],
        statistics: list[Mapping[str, Any] | None],
        sizes: Sizes,
        target: torch.Tensor,
        notices: Notices,
    ) -> list[PreprocessingReport]:
        """Fill `target` (B, C, H, W) from chips that stack."""
        plan = plan_bands(chips[0].name, chips[0].bands, self.bands, self.missing_bands)
        stack = stack_chips(chips, plan, notices)
        low, scale = (limit.expand(len(chips), -1) for limit in self._limits(stack, statistics))
        direct = sizes.original == sizes.resized == sizes.cropped == sizes.padded
        values = target if direct else allocate(tuple(stack.pixels.shape), torch.float32, target.device)
        values.copy_(stack.pixels).sub_(low[..., None, None]).div_(scale[..., None, None])
        if self.normalization == "sigma_clip":
            quantise_(values)

        valid, share = stack.valid, None
        if valid is not None:
            mean = valid_mean(values, valid)[..., None, None]
            values.copy_(torch.where(valid.unsqueeze(1), values, mean))
            share = valid.float()
        if not direct:
            share = target.new_ones(len(chips), *sizes.original) if share is None else share
            share = fit_pixels(values, share, sizes, target)
        tokens = self._token_masks(chips, plan, share, target)
        return [
            PreprocessingReport(
                source=chip.name,
                band_names=chip.bands,
                assumed=chip.assumed,
                bands=tuple(self.bands),
                filled=plan.filled,
                offsets=chip.offsets,
                normalization=self.normalization,
                low=chip_low,
                scale=chip_scale,
                valid=chip_valid,
                tokens=chip_tokens,
                sizes=sizes,
                crs=chip.crs,
                transform=chip.transform,
                tags=chip.tags,
            )
            for chip, chip_low, chip_scale, chip_valid, chip_tokens in zip(
                chips, low.unbind(), scale.unbind(), [None] * len(chips) if valid is None else valid.unbind(), tokens
            )
        ]

    def _limits(self, stack: Stack, statistics: list[Mapping[str, Any] | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is subtracted from each band, and what it is then divided by: (B, C) or (1, C)."""

        def given(name: str) -> torch.Tensor:
            return tensor([look_up_statistics(name, entry, self.bands) for entry in statistics])

        def tensor(values: list[list[float]]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=stack.pixels.device)

        if self.normalization in ("zscore", "sigma_clip"):
            mean = given("mean") if self.mean is None else tensor([self.mean])
            std = given("std") if self.std is None else tensor([self.std])
            if self.normalization == "zscore":
                return mean, torch.where(std > 0, std, torch.inf)
            return mean - 2 * std, span(mean - 2 * std, mean + 2 * std)
        if self.statistics_scope == "given" or statistics[0] is not None:
            low, high = given("percentile_1"), given("percentile_99")
        elif self.normalization == "percentile":
            low, high = percentiles(stack.pixels, stack.valid, PERCENTILES)
        else:
            low, high = stack.extremes or minimum_maximum(stack.pixels, stack.valid)
        return low, span(low, high)

    def _token_masks(
        self, chips: list[Chip], plan: BandPlan, share: torch.Tensor | None, pixel_values: torch.Tensor
    ) -> list[torch.Tensor | None]:
        """Return for each chip which tokens (N,) have data; None where all have."""
        filled = plan.filled if self.missing_bands == "mask" else {}
        if share is None and not filled:
            return [None] * len(chips)
        present = torch.tensor([band not in filled for band in self.bands], device=pixel_values.device)
        groups = present.view(-1, self.spectral_patch_size).any(1)
        if share is None:
            share = torch.ones_like(pixel_values[:, 0])
        places = token_validity(share, self.patch_size).flatten(1)
        for chip, any_place in zip(chips, places.any(1).tolist()):
            if not any_place:
                raise ValueError(
                    f"{chip.name}: no token of {self.patch_size} x {self.patch_size} px has data in half of its "
                    "pixels. Leave this image out."
                )
        tokens = (groups[:, None] & places[:, None]).flatten(1)
        return [None if mask.all() else mask.long() for mask in tokens]


def _per_band(name: str, values: Sequence[float] | Mapping[str, float] | None, bands: list[str]) -> list[float] | None:
    """Return the values in the order of the bands."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        by_name = {key if key == "mean" else resolve_band(key): value for key, value in values.items()}
        missing = [band for band in bands if band not in by_name]
        if missing:
            raise ValueError(f"`{name}` must have a value for each band, and has none for {', '.join(missing)}.")
        values = [by_name[band] for band in bands]
    if len(values) != len(bands):
        raise ValueError(f"`{name}` must have a value for each of the {len(bands)} bands, got {len(values)}.")
    return [float(value) for value in values]


def _common_size(chips: list[Chip], sizes: list[Sizes]) -> tuple[int, ...]:
    for chip, size in zip(chips, sizes):
        if size.padded != sizes[0].padded:
            raise ValueError(
                f"The images of a batch must share one size, but {chips[0].name} is {sizes[0].original[0]} x "
                f"{sizes[0].original[1]} px and {chip.name} {size.original[0]} x {size.original[1]} px. Set a `size` "
                "to resize to, or call once for each size (the pipelines group images by size)."
            )
    return sizes[0].padded


def _runs(chips: list[Chip]) -> Iterator[slice]:
    """Cut a list into runs of neighbours that stack, short enough to stay in the cache."""
    start = 0
    for _, group in groupby(chips, key=Chip.kind):
        stop = start + len(list(group))
        longest = max(1, CHUNK_VALUES // chips[start].pixels.numel())
        for first in range(start, stop, longest):
            yield slice(first, min(first + longest, stop))
        start = stop
