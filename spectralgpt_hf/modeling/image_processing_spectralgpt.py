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
"""Image processor for SpectralGPT: from any satellite image to `pixel_values`, from outputs to labels and maps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, TypedDict

import torch
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict

from .band_plan import plan_bands
from .bands import L2A_BANDS, SENTINEL_2, Sensor
from .chips import BandNames, Chip, ImageInput, Mask, Offset, one_each, open_chips
from .configuration_spectralgpt import AUTO_MAP, IGNORE_INDEX, refuse_picture_task
from .geometry import (
    Labels,
    PreprocessingReport,
    Sizes,
    common_size,
    count_tokens,
    fit_labels,
    fit_pixels,
    plan_sizes,
    token_masks,
)
from .matching import Matching
from .normalization import NORMALIZATIONS, by_band, check_statistics, given_limits, measured_limits
from .pixel_statistics import Statistics, allocate, quantise_, valid_mean
from .post_processing import PostProcessing
from .radiometry import Notices, measure_statistics, stack_chips, stackable_runs, warn_once
from .sensors import model_sensor
from .series import SeriesDates, find_series, preprocess_series


STATISTICS_SCOPES = ("image", "given")
MISSING_BANDS = ("error", "nearest", "mean", "mask")


class SpectralGPTImageProcessorKwargs(TypedDict, total=False):
    """The saved attributes, each of which `from_pretrained` can override."""

    bands: Sequence[str]
    normalization: str
    statistics_scope: str
    mean: Sequence[float] | Mapping[str, float] | None
    std: Sequence[float] | Mapping[str, float] | None
    statistics: Statistics | None
    size: dict[str, int] | int | None
    do_resize: bool
    do_center_crop: bool
    crop_size: dict[str, int] | int | None
    do_pad: bool
    missing_bands: str
    patch_size: int
    spectral_patch_size: int
    sensor: str
    wavelengths: Sequence[float | None] | None


# The texts that `auto_docstring` would generate are about RGB photos.
class SpectralGPTImageProcessor(PostProcessing, BaseImageProcessor):  # trf-ignore: TRF057
    r"""
    Converts images from any source to the input of SpectralGPT, by band name and without guesses about radiometry.

    Args:
        bands: Names of the bands that the model expects, in order (`config.bands`). `"mean"` is the mean of the others.
        normalization: `"minmax"` scales each band of each image to [0, 1]; `"percentile"` scales it from its 1st to its
            99th percentile, without clipping; `"zscore"` uses `mean` and `std`; `"sigma_clip"` scales `mean` ± 2 `std`
            to [0, 1], clips, and rounds down to 8 bits.
        statistics_scope: `"image"` measures the limits on each whole image. `"given"` takes them from statistics of a
            scene, a pair or a data set, which are passed with the images or are the attribute `statistics`.
        mean: Means of the bands in digital numbers, by band name or in the order of `bands`, for zscore and sigma_clip.
            They are kept and saved by band name.
        std: Standard deviations of the bands, as `mean`.
        statistics: Result of `measure_statistics`, such as that of a training set, for images without statistics.
        size: Size to which images are resized (bicubic, antialiased): `{"height": ..., "width": ...}` or one number.
        do_resize: Whether images are resized, if there is a `size`.
        do_center_crop: Whether images are cropped to their centre, after resizing.
        crop_size: Size of the centre crop: `{"height": ..., "width": ...}` or one number.
        do_pad: Whether images are padded at the bottom and right to whole tokens. Otherwise such sizes are refused.
        missing_bands: Handling of bands that the input lacks: `"error"` raises an error, `"nearest"` takes the band
            nearest in wavelength, `"mean"` takes the mean of the bands that are present, and `"mask"` fills like
            nearest and masks the tokens of spectral groups that have no band.
        patch_size: Height and width of a token, in pixels.
        spectral_patch_size: Number of bands of a token.
        sensor: Sensor of the bands (`config.sensor`).
        wavelengths: Wavelengths of the bands in nm (`config.wavelengths`), if the sensor's table does not hold them.

    Raises:
        ValueError: If an argument is unknown or has an impossible value.

    Example:

    ```python
    >>> processor = SpectralGPTImageProcessor(bands=model.config.bands)
    >>> outputs = model(**processor("crop.tif", return_tensors="pt"))
    ```
    """

    model_input_names = ["pixel_values", "attention_mask", "dates"]
    valid_kwargs = SpectralGPTImageProcessorKwargs  # type: ignore[assignment]
    _auto_class = "AutoImageProcessor"  # saving copies the code beside the settings

    def __init__(
        self,
        bands: Sequence[str] = L2A_BANDS,
        normalization: str = "minmax",
        statistics_scope: str = "image",
        mean: Sequence[float] | Mapping[str, float] | None = None,
        std: Sequence[float] | Mapping[str, float] | None = None,
        statistics: Statistics | None = None,
        size: dict[str, int] | int | None = None,
        do_resize: bool = True,
        do_center_crop: bool = False,
        crop_size: dict[str, int] | int | None = None,
        do_pad: bool = True,
        missing_bands: str = "error",
        patch_size: int = 8,
        spectral_patch_size: int = 3,
        sensor: str = SENTINEL_2.name,
        wavelengths: Sequence[float | None] | None = None,
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
        self.sensor = sensor
        self.wavelengths = None if wavelengths is None else list(wavelengths)
        self.bands = list(model_sensor(sensor, bands, wavelengths).resolve_all(bands, allow_mean=True))
        self.normalization = normalization
        self.statistics_scope = statistics_scope
        self.mean = by_band("mean", mean, self.bands, self.expected)
        self.std = by_band("std", std, self.bands, self.expected)
        self.statistics = None if statistics is None else Statistics(**statistics)
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
        pads = self.sensor != SENTINEL_2.name  # a model of another sensor pads its last group
        expect(len(self.bands) > 0 and (pads or len(self.bands) % self.spectral_patch_size == 0), "bands", multiple)
        expect(set(self.bands) != {"mean"}, "bands", "a list with at least one band beside 'mean'")
        for name in ("size", "crop_size"):
            if getattr(self, name) is not None:
                sides = [getattr(self, name).get(side) for side in ("height", "width")]
                whole = all(isinstance(side, int) and side > 0 for side in sides)
                expect(whole, name, "{'height': ..., 'width': ...} in whole pixels")
        expect(self.crop_size is not None or not self.do_center_crop, "crop_size", "given for do_center_crop=True")
        for name in ("mean", "std"):
            if self.normalization in ("zscore", "sigma_clip") and self.statistics_scope == "image":
                expect(getattr(self, name) is not None, name, f"given for normalization={self.normalization!r}")
            by_band(name, getattr(self, name), self.bands, self.expected)
        expect(self.std is None or min(self.std.values()) > 0, "std", "positive")
        expect((self.mean is None) == (self.std is None), "mean", "given together with `std`")
        if self.statistics is not None:
            check_statistics(self.statistics, self.bands, self.normalization)

    @property
    def expected(self) -> Sensor:
        """The sensor of the bands that the model expects."""
        return model_sensor(self.sensor, self.bands, self.wavelengths)

    @property
    def measures_pixels(self) -> bool:
        """Whether limits are measured on the image or the scene. Otherwise they are saved with the processor."""
        return self._saved_statistics() is None

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Read the saved attributes, unless for a pipeline that opens pictures of three bands."""
        refuse_picture_task(kwargs.get("_from_pipeline"))
        return super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from saved attributes. Version 0.1 saved `mean` and `std` in the order of `bands`."""
        saved = dict(image_processor_dict)
        bands = saved.get("bands", L2A_BANDS)
        sensor = model_sensor(saved.get("sensor", SENTINEL_2.name), bands, saved.get("wavelengths"))
        for name in ("mean", "std"):
            if saved.get(name) is not None:
                saved[name] = by_band(name, saved[name], sensor.resolve_all(bands, allow_mean=True), sensor)
        return super().from_dict(saved, **kwargs)

    def with_settings(self, **settings: Any) -> "SpectralGPTImageProcessor":
        """Return a checked copy with these attributes instead of its own. Arguments that are None change nothing."""
        copied = copy(self)
        for name, value in settings.items():
            if value is not None:
                setattr(copied, name, get_size_dict(value, param_name=name) if name in ("size", "crop_size") else value)
        copied.check()
        return copied

    def for_match(self, match: str | None) -> "SpectralGPTImageProcessor":
        """Return a copy that masks the bands that a matched sensor lacks, or itself if that changes nothing."""
        return self.with_settings(missing_bands="mask") if match and self.missing_bands == "error" else self

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, with the `auto_map` of the code that reads them."""
        return super().to_dict() | {"auto_map": {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}}

    def __call__(self, images: ImageInput, *args: object, dates: SeriesDates = None, **kwargs: Any) -> Any:
        """Convert images to the input of the model (`preprocess`), or series of several dates (`preprocess_series`).

        Args:
            images: Images as in `preprocess`; or one series or a list of them, as in `find_series`.
            args, kwargs: Arguments of `preprocess`. Series accept keyword arguments only.
            dates: Date of each image of one series, or a list of these for several series.
        """
        series = find_series(images, dates)
        if series is not None:
            return preprocess_series(self, series, **kwargs)
        return super().__call__(images, *args, **kwargs)

    def preprocess(  # trf-ignore: TRF057
        self,
        images: ImageInput,
        band_names: BandNames | Sequence[BandNames | None] | None = None,
        nodata: float | Sequence[float | None] | None = None,
        offset: Offset | Sequence[Offset | None] | None = None,
        mask: Mask | Sequence[Mask] = None,
        statistics: Statistics | Sequence[Statistics | None] | None = None,
        segmentation_maps: Labels | Sequence[Labels] | None = None,
        return_tensors: str | None = None,
        report: bool = False,
        *,
        do_resize: bool | None = None,
        do_center_crop: bool | None = None,
        size: dict[str, int] | int | None = None,
        crop_size: dict[str, int] | int | None = None,
        missing_bands: str | None = None,
        ignore_index: int = IGNORE_INDEX,
        device: torch.device | str | None = None,
        warn: bool = True,
        sensor: Sensor | str | None = None,
        match: str | None = None,
    ) -> Any:
        """Convert images to the input of the model.

        Args:
            images: One image or a list: path, URL, TIFF bytes, STAC item, `Raster`, array or tensor (C, H, W) on any
                device, `xarray.DataArray` or `xarray.Dataset`, sample of TorchGeo; in digital numbers (reflectance x
                10000). Arrays (H, W, C) are recognised by their number of bands.
            band_names: Names of the input's bands, in its order, if it does not state them. This and the next four
                arguments are one value for all images, or a list with one for each of them.
            nodata: Stored value that means no data, instead of the value that a file declares. 0 in all bands and NaN
                also mean no data.
            offset: Number that is added to the digital numbers, instead of the offset in a file's metadata: one number,
                one for each band of the input, or one by band name. -1000 converts products of processing baseline
                04.00 and later to reflectance x 10000.
            mask: (H, W) of the image, non-zero where a pixel counts; for files also a path, or `"SCL"` for the scene
                classification of the product.
            statistics: Result of `measure_statistics`, which replaces saved or measured limits. minmax and percentile
                then both use the 1st and 99th percentiles, because the extremes of a scene are clouds and glint.
            segmentation_maps: Labels (H, W) of each image, or their paths. They are resized and cropped like the
                images, by nearest neighbour.
            return_tensors: `"pt"` or `"np"`; torch tensors by default.
            report: Whether to also return reports of the assumptions and the steps.
            do_resize, do_center_crop, size, crop_size, missing_bands: Values that replace the attributes in this call.
            ignore_index: Label of pixels without data, and of the nodata value of a label file.
            device: Device on which to compute; by default that of the images.
            warn: Whether to raise warnings; False for tiles of a scene, whose warnings its statistics have raised.
            sensor: Sensor that took the images, instead of the one that they state: a name ("landsat-8") or a `Sensor`.
            match: `"wavelength"` accepts images of another sensor. Each expected band is read from the nearest band in
                wavelength, if one is near enough, and else masked, unless `missing_bands` is set. None refuses them.

        Returns:
            `BatchFeature` with `pixel_values` (B, C, H, W), float32; `attention_mask` (B, N), int64, 0 where a token
            has data in less than half of its pixels, and only if there is such a token; `labels` (B, H, W), int64, if
            maps are given. With `report`, also a list of one `PreprocessingReport` per image.

        Raises:
            FileNotFoundError: If a path does not exist.
            ValueError: If an image cannot be read, lacks bands, is of another sensor or size, or has no data.
        """
        own = self.for_match(match).with_settings(
            do_resize=do_resize,
            do_center_crop=do_center_crop,
            size=size,
            crop_size=crop_size,
            missing_bands=missing_bands,
        )
        matching = Matching.of(own.expected, sensor, match)
        chips = open_chips(images, own.bands, band_names, nodata, offset, mask, matching=matching)
        if device is not None:
            chips = [chip.to(device) for chip in chips]
        given = [own._statistics(entry) for entry in one_each(statistics, len(chips), "statistics")]
        sizes = [own._sizes(chip) for chip in chips]
        height, width = common_size([chip.name for chip in chips], sizes)
        pixel_values = allocate((len(chips), len(own.bands), height, width), torch.float32, chips[0].pixels.device)
        notices: Notices = defaultdict(list)
        reports: list[PreprocessingReport] = []
        for run in stackable_runs(chips, [entry is None for entry in given]):
            reports += own._normalize(chips[run], given[run], sizes[run.start], pixel_values[run], notices)
        if warn:
            warn_once(notices)
        data = {"pixel_values": pixel_values}
        masks = [report.tokens for report in reports]
        if any(mask is not None for mask in masks):
            number = count_tokens(pixel_values, self.patch_size, self.spectral_patch_size)
            everywhere = torch.ones(number, dtype=torch.int64, device=pixel_values.device)
            data["attention_mask"] = torch.stack([everywhere if mask is None else mask for mask in masks])
        if segmentation_maps is not None:
            maps = one_each(segmentation_maps, len(chips), "segmentation_maps")
            labels = [fit_labels(labels, r.source, r.sizes, r.valid, ignore_index) for labels, r in zip(maps, reports)]
            data["labels"] = torch.stack(labels).to(pixel_values.device)
        batch = BatchFeature(data, tensor_type=return_tensors)
        return (batch, reports) if report else batch

    def measure_statistics(
        self,
        images: ImageInput,
        band_names: BandNames | Sequence[BandNames | None] | None = None,
        nodata: float | Sequence[float | None] | None = None,
        offset: Offset | Sequence[Offset | None] | None = None,
        mask: Mask | Sequence[Mask] = None,
        sensor: Sensor | str | None = None,
        match: str | None = None,
    ) -> Statistics:
        """Measure the `statistics` of one scene, or of several images together, for this processor's bands.

        Arguments are those of `preprocess`; see the function `measure_statistics`.
        """
        return measure_statistics(
            images,
            self.bands,
            band_names=band_names,
            nodata=nodata,
            offset=offset,
            mask=mask,
            missing_bands=self.for_match(match).missing_bands,
            matching=Matching.of(self.expected, sensor, match),
        )

    def _sizes(self, chip: Chip) -> Sizes:
        size = self.size if self.do_resize else None
        crop_size = self.crop_size if self.do_center_crop else None
        return plan_sizes(chip.name, chip.pixels.shape[1:], size, crop_size, self.patch_size, self.do_pad)

    def _normalize(
        self,
        chips: list[Chip],
        statistics: list[Statistics | None],
        sizes: Sizes,
        target: torch.Tensor,
        notices: Notices,
    ) -> list[PreprocessingReport]:
        """Normalise chips of one kind, and write the result to `target` (B, C, H, W)."""
        plan = plan_bands(chips[0].name, chips[0].band_names, self.bands, self.missing_bands, self.expected)
        stack = stack_chips(chips, plan, notices)
        known = [entry for entry in statistics if entry is not None]  # of all images of a run, or of none
        if known:
            low, scale = given_limits(known, self.bands, self.normalization, target.device)
        else:
            low, scale = measured_limits(stack, self.normalization)
        direct = sizes.original == sizes.resized == sizes.cropped == sizes.padded
        values = target if direct else allocate(tuple(stack.pixels.shape), torch.float32, target.device)
        values.copy_(stack.pixels).sub_(low[..., None, None]).div_(scale[..., None, None])
        if self.normalization == "sigma_clip":
            quantise_(values)

        valid, share = stack.valid, None
        if valid is not None:
            mean = valid_mean(values, valid)[..., None, None]
            torch.where(valid.unsqueeze(1), values, mean, out=values)
            share = valid.float()
        if not direct:
            share = target.new_ones(len(chips), *sizes.original) if share is None else share
            share = fit_pixels(values, share, sizes, target)
        lacking = [self.missing_bands == "mask" and band in plan.filled for band in self.bands]
        names, sides = [chip.name for chip in chips], (self.patch_size, self.spectral_patch_size)
        tokens = token_masks(names, lacking, share, target, *sides)
        return [
            PreprocessingReport.of(
                chip,
                bands=tuple(self.bands),
                filled=plan.filled,
                normalization=self.normalization,
                low=chip_low,
                scale=chip_scale,
                valid=chip_valid,
                tokens=chip_tokens,
                sizes=sizes,
            )
            for chip, chip_low, chip_scale, chip_valid, chip_tokens in zip(
                chips, low.unbind(), scale.unbind(), [None] * len(chips) if valid is None else valid.unbind(), tokens
            )
        ]

    def _saved_statistics(self) -> Statistics | None:
        """Return the saved values that set limits, or None if limits are measured."""
        if self.normalization in ("zscore", "sigma_clip") and self.mean is not None and self.std is not None:
            return {"bands": list(self.mean), "mean": list(self.mean.values()), "std": list(self.std.values())}
        return self.statistics if self.statistics_scope == "given" else None

    def _statistics(self, given: Statistics | None) -> Statistics | None:
        """Return the statistics that set the limits of an image, given or saved; None if limits are measured."""
        if given is not None:
            check_statistics(given, self.bands, self.normalization)
            return given
        if self.statistics_scope == "given" and self.measures_pixels:
            raise ValueError(
                "Expected `statistics`, because `statistics_scope` is 'given': measure them once for the scene or the "
                "pair with `processor.measure_statistics(images)`."
            )
        return self._saved_statistics()
