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
"""SpectralGPT model configuration.

Transformers decides which files belong to a checkpoint by the text of relative imports that it finds in a file, and
every class imports this file. The lines below therefore make each checkpoint complete, without a circle of imports:

    from .modeling_spectralgpt import SpectralGPTModel
    from .image_processing_spectralgpt import SpectralGPTImageProcessor
    from .pipeline_spectralgpt import MultispectralPipeline
"""

from copy import deepcopy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import auto_docstring

from .bands import L2A_BANDS, PSEUDO_BAND_MEAN, SENTINEL_2, Sensor
from .sensors import SENSORS, model_sensor


# Label of pixels without a class in maps of labels, unless `semantic_loss_ignore_index` is another value.
IGNORE_INDEX = 255

MASKINGS = ("random", "spatial", "spectral")

# The sizes of the paper, and a tiny one that fits into a package. Attention heads and decoders follow the paper.
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "decoder_hidden_size": 128,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 512,
        "decode_hidden_size": 64,
    },
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
}

# Every saved configuration has these entries, so that any class loads from any checkpoint.
AUTO_MAP = {
    "AutoConfig": "configuration_spectralgpt.SpectralGPTConfig",
    "AutoImageProcessor": "image_processing_spectralgpt.SpectralGPTImageProcessor",
    "AutoModel": "modeling_spectralgpt.SpectralGPTModel",
    "AutoModelForPreTraining": "modeling_spectralgpt.SpectralGPTForPreTraining",
    "AutoModelForImageClassification": "modeling_spectralgpt.SpectralGPTForImageClassification",
    "AutoModelForSemanticSegmentation": "modeling_spectralgpt.SpectralGPTForSemanticSegmentation",
    # Transformers has no auto class for change detection; this one is free, and pipelines need one.
    "AutoModelForUniversalSegmentation": "modeling_spectralgpt.SpectralGPTForChangeDetection",
    "AutoBackbone": "modeling_spectralgpt.SpectralGPTBackbone",
}

CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    "multispectral-image-classification": {
        "impl": "pipeline_spectralgpt.MultispectralImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    },
    "multispectral-image-segmentation": {
        "impl": "pipeline_spectralgpt.MultispectralImageSegmentationPipeline",
        "pt": ["AutoModelForSemanticSegmentation"],
        "type": "image",
    },
    "multispectral-change-detection": {
        "impl": "pipeline_spectralgpt.MultispectralChangeDetectionPipeline",
        "pt": ["AutoModelForUniversalSegmentation"],
        "type": "image",
    },
    "multispectral-feature-extraction": {
        "impl": "pipeline_spectralgpt.MultispectralFeatureExtractionPipeline",
        "pt": ["AutoModel"],
        "type": "image",
    },
}

# Tasks of transformers that open pictures, which have three bands, and ours instead of them.
PICTURE_TASKS: dict[str, tuple[str, ...]] = {
    "image-classification": ("multispectral-image-classification",),
    "image-segmentation": ("multispectral-image-segmentation", "multispectral-change-detection"),
    "image-feature-extraction": ("multispectral-feature-extraction",),
}


def refuse_picture_task(task: str | None) -> None:
    """Raise a `ValueError` that names our tasks if a pipeline of `PICTURE_TASKS` is being loaded."""
    if task in PICTURE_TASKS:
        ours = " or ".join(map(repr, PICTURE_TASKS[task]))
        raise ValueError(
            f"The pipeline {task!r} of transformers opens pictures of three bands. Use the task {ours}, which takes "
            "all bands of a GeoTIFF."
        )


# True if this file was downloaded with a checkpoint, not installed.
_IS_REMOTE_CODE = __name__.startswith("transformers_modules.")


@auto_docstring(checkpoint="spectralgpt/spectralgpt-base")
@strict
class SpectralGPTConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    spectral_patch_size (`int`, *optional*, defaults to 3):
        Number of consecutive bands in one 3D token. The last group of a sensor whose bands do not fill it is padded
        with zeros, which are left out of the losses.
    bands (`list[str]`, *optional*):
        Names of the bands that the weights expect, in order (`"mean"` is the mean of the others). Defaults to the 12
        bands of a Sentinel-2 L2A product, and must be given for any other `num_channels`. Those of another sensor
        ascend by wavelength, and default to all in its table.
    sensor (`str`, *optional*, defaults to `"sentinel-2"`):
        Name of the sensor whose bands these are, as in `modeling/sensors.py`, or any other name for one's own.
    wavelengths (`list[float]`, *optional*):
        Central wavelengths of the bands in nm, None for `"mean"`. Defaults to the sensor's table, and to names such as
        `"842nm"`.
    temporal_fusion (`str`, *optional*, defaults to `"mean"`):
        How the tokens of several dates become one set: their `"mean"`, or `"attention"` over the dates with a learned
        query per head and the day of the year, which adds parameters.
    decoder_hidden_size (`int`, *optional*, defaults to 512):
        Width of the pretraining decoder.
    decoder_num_hidden_layers (`int`, *optional*, defaults to 4):
        Number of layers of the pretraining decoder.
    decoder_num_attention_heads (`int`, *optional*, defaults to 16):
        Number of attention heads of the pretraining decoder.
    decoder_intermediate_size (`int`, *optional*, defaults to 2048):
        Width of the MLPs of the pretraining decoder.
    mask_ratio (`float`, *optional*, defaults to 0.9):
        Share of tokens masked in pretraining, between 0 and 1, both excluded.
    masking (`str`, *optional*, defaults to `"random"`):
        Unit of masking: `"random"` tokens, whole patch positions (`"spatial"`), or spectral groups (`"spectral"`).
    decode_ratio (`float`, *optional*, defaults to 1.0):
        Share of patch positions reconstructed in training, above 0 and at most 1. All spectral groups of a random
        choice are decoded, together with the visible tokens, which saves most of the decoder's arithmetic; the losses
        stay unbiased. In evaluation everything is reconstructed.
    norm_pix_loss (`bool`, *optional*, defaults to `False`):
        Whether both pretraining targets are standardised token by token.
    token_loss_weight (`float`, *optional*, defaults to 1.0):
        Weight of the token-to-token reconstruction error.
    spectral_loss_weight (`float`, *optional*, defaults to 1.0):
        Weight of the spectral-to-spectral reconstruction error.
    classifier_dropout (`float`, *optional*, defaults to 0.0):
        Dropout before the classifier.
    pixel_skip (`bool`, *optional*, defaults to `False`):
        Whether the head sees the input beside the encoder's features: in classification statistics of each band, in
        segmentation and change detection a linear map of each pixel, of both dates. With few labels, what the values
        themselves tell then need not be learnt through the encoder. Not part of the paper.
    decode_hidden_size (`int`, *optional*, defaults to 256):
        Width of the head of segmentation and change detection, a multiple of 16; its four levels are 1, 2, 4 and 8
        times as wide.
    decode_dropout (`float`, *optional*, defaults to 0.5):
        Dropout after every convolution block of that head.
    class_weights (`list[float]`, *optional*):
        Weight of each class in the loss of segmentation and change detection. All 1 by default.
    class_codes (`list[int]`, *optional*):
        Value of each class in the map files that are written, 0 to 254: those of the maps that the model was trained
        on. Defaults to the class numbers 0, 1, 2, ...
    semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
        Label of pixels left out of the loss of segmentation and change detection. It must not be a class number.
    group_pooling (`str`, *optional*, defaults to `"mean"`):
        How `SpectralGPTBackbone` joins the spectral groups of each patch position: `"mean"`, or `"concat"` for feature
        maps of `hidden_size` channels per group.
    apply_layernorm (`bool`, *optional*, defaults to `True`):
        Whether `SpectralGPTBackbone` applies the final LayerNorm to its feature maps.

    Example:

    ```python
    >>> from spectralgpt_hf import SpectralGPTConfig, SpectralGPTModel

    >>> configuration = SpectralGPTConfig.from_preset("base")
    >>> model = SpectralGPTModel(configuration)
    >>> configuration = model.config
    ```"""

    model_type = "spectralgpt"
    _auto_class = "AutoConfig"  # saving the config saves the code beside it

    image_size: int = 128
    patch_size: int = 8
    num_channels: int = 12
    spectral_patch_size: int = 3
    bands: list[str] | tuple[str, ...] | None = None
    sensor: str = SENTINEL_2.name
    wavelengths: list[float | int | None] | tuple[float | int | None, ...] | None = None

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    temporal_fusion: str = "mean"

    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    mask_ratio: float | int = 0.9
    masking: str = "random"
    decode_ratio: float | int = 1.0
    norm_pix_loss: bool = False
    token_loss_weight: float | int = 1.0
    spectral_loss_weight: float | int = 1.0

    classifier_dropout: float | int = 0.0
    pixel_skip: bool = False
    decode_hidden_size: int = 256
    decode_dropout: float | int = 0.5
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    class_codes: list[int] | tuple[int, ...] | None = None
    semantic_loss_ignore_index: int = IGNORE_INDEX

    group_pooling: str = "mean"
    apply_layernorm: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # These entries of a checkpoint are dropped, because `save_pretrained` writes them again for the files that it
        # saves. An installed package registers its pipelines; in a configuration they would need trust in remote code.
        kwargs.pop("auto_map", None)
        kwargs.pop("stage_names", None)
        if _IS_REMOTE_CODE:
            self.auto_map = dict(AUTO_MAP)
        else:
            kwargs.pop("custom_pipelines", None)
        # Sizes are checked before anything of such a size is built.
        for name, largest in {**_LARGEST, "num_labels": _LARGEST_NUM_LABELS}.items():
            value = kwargs.get(name, getattr(self, name, None))
            if isinstance(value, int) and value > largest:
                raise ValueError(f"`{name}` must be at most {largest}, got {value}.")
        self._fill_bands()
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "SpectralGPTConfig":
        """Return the configuration of one of the paper's sizes.

        Args:
            name: `"tiny"`, `"base"`, `"large"` or `"huge"`.
            overrides: Any other attribute of the configuration.

        Raises:
            ValueError: If `name` is no preset, or an override is no attribute.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
        known = cls()
        unknown = [override for override in overrides if not hasattr(known, override)]
        if unknown:
            raise ValueError(f"The configuration has no attribute {', '.join(unknown)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def num_groups(self) -> int:
        """Number of spectral groups: tokens at each patch position."""
        return -(-self.num_channels // self.spectral_patch_size)

    @property
    def expected_sensor(self) -> Sensor:
        """The sensor that `sensor`, `bands` and `wavelengths` describe."""
        return model_sensor(self.sensor, self.bands or (), self.wavelengths)

    def band_settings(self) -> dict[str, Any]:
        """Return the arguments of `SpectralGPTImageProcessor` that describe the bands and the size of tokens."""
        is_msi = self.sensor == SENTINEL_2.name
        other = {} if is_msi else {"sensor": self.sensor, "wavelengths": list(self.wavelengths or ())}
        sizes = {name: getattr(self, name) for name in ("patch_size", "spectral_patch_size")}
        changed = {name: size for name, size in sizes.items() if size != getattr(type(self), name)}
        return {"bands": list(self.bands or ()), **other, **changed}

    def decoder_config(self) -> "SpectralGPTConfig":
        """Return the configuration of the pretraining decoder's layers: its own sizes, no stochastic depth."""
        sizes = {
            "hidden_size": self.decoder_hidden_size,
            "num_hidden_layers": self.decoder_num_hidden_layers,
            "num_attention_heads": self.decoder_num_attention_heads,
            "intermediate_size": self.decoder_intermediate_size,
        }
        own = {"drop_path_rate": 0.0, "out_features": None, "out_indices": None}
        config = _DecoderConfig(**self.to_dict() | sizes | own)
        config._attn_implementation = self._attn_implementation
        return config

    def _fill_bands(self) -> None:
        """Convert the bands to their canonical names, and look up their sensor and wavelengths."""
        is_msi = self.sensor == SENTINEL_2.name
        if self.bands is None and is_msi:
            self.bands = L2A_BANDS if self.num_channels == len(L2A_BANDS) else None
        elif self.bands is None and self.sensor in SENSORS:
            known = [band for band in SENSORS[self.sensor].bands if band.wavelength is not None]
            self.bands = [band.name for band in sorted(known, key=lambda band: band.wavelength or 0)] or None
        if self.bands is None:
            return
        if not is_msi and self.num_channels == type(self).num_channels:
            self.num_channels = len(self.bands)
        if is_msi:  # the table replaces values of an earlier list of bands
            self.wavelengths = None
        sensor = model_sensor(self.sensor, self.bands, self.wavelengths)
        self.bands = list(sensor.resolve_all(self.bands, allow_mean=True))
        if self.wavelengths is None:
            self.wavelengths = sensor.wavelengths(self.bands)

    def check(self) -> None:
        """Raise a `ValueError` that names the first attribute with an impossible value."""

        def expect(condition: bool, name: str, expected: str) -> None:
            if not condition:
                raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)!r}.")

        for name in _LARGEST:
            expect(getattr(self, name) > 0, name, "positive")
        for name in ("drop_path_rate", "attention_probs_dropout_prob", "classifier_dropout", "decode_dropout"):
            expect(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        for name in ("token_loss_weight", "spectral_loss_weight"):
            expect(0 <= getattr(self, name) < float("inf"), name, "zero or more, and finite")
        expect(0 < self.layer_norm_eps <= 1, "layer_norm_eps", "above 0 and at most 1")
        expect(0 <= self.initializer_range < 1, "initializer_range", "in [0, 1)")
        expect(0 < self.mask_ratio < 1, "mask_ratio", "between 0 and 1, both excluded")
        expect(0 < self.decode_ratio <= 1, "decode_ratio", "above 0 and at most 1")
        for name, choices in _CHOICES.items():
            expect(getattr(self, name) in choices, name, f"one of {', '.join(map(repr, choices))}")
        expect(
            self.image_size % self.patch_size == 0, "image_size", f"a multiple of `patch_size` ({self.patch_size} px)"
        )
        is_msi = self.sensor == SENTINEL_2.name
        expect(
            not is_msi or self.num_channels % self.spectral_patch_size == 0,
            "num_channels",
            f"a multiple of `spectral_patch_size` ({self.spectral_patch_size} bands)",
        )
        expect(
            self.bands is not None and len(self.bands) == self.num_channels,
            "bands",
            f"a list of {self.num_channels} names (`num_channels`)",
        )
        if not is_msi:
            pairs = list(zip(self.bands or (), self.wavelengths or ()))
            centres = [centre or 0.0 for band, centre in pairs if band != PSEUDO_BAND_MEAN]
            known = len(pairs) == self.num_channels and all(centre > 0 for centre in centres)
            expect(known, "wavelengths", f"a wavelength in nm for each of the {self.num_channels} bands")
            expect(centres == sorted(centres), "wavelengths", "in ascending order, and `bands` with them")
        expect(self.decode_hidden_size % 16 == 0, "decode_hidden_size", "a multiple of 16 (groups of its GroupNorms)")
        if self.class_weights is not None:
            expect(
                len(self.class_weights) == self.num_labels
                and len(self.class_weights) > 1
                and min(self.class_weights) >= 0,
                "class_weights",
                f"a list of {self.num_labels} weights (`num_labels`, 2 or more), zero or more, or None",
            )
        if self.class_codes is not None:
            expect(
                len(self.class_codes) == self.num_labels
                and len(set(self.class_codes)) == len(self.class_codes) > 1
                and 0 <= min(self.class_codes) <= max(self.class_codes) < IGNORE_INDEX,
                "class_codes",
                f"{self.num_labels} different numbers from 0 to 254 (`num_labels`, 2 or more), or None",
            )
        for prefix in ("", "decoder_"):
            heads = getattr(self, f"{prefix}num_attention_heads")
            expect(
                getattr(self, f"{prefix}hidden_size") % heads == 0,
                f"{prefix}hidden_size",
                f"a multiple of `{prefix}num_attention_heads` ({heads})",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, with the classes and pipelines that can be loaded from a checkpoint."""
        return super().to_dict() | {"auto_map": dict(AUTO_MAP), "custom_pipelines": deepcopy(CUSTOM_PIPELINES)}


class _DecoderConfig(SpectralGPTConfig):  # trf-ignore: TRF057 (never seen by users)
    """A separate class, by which `set_attn_implementation` distinguishes the decoder from the encoder."""


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "masking": MASKINGS,
    "group_pooling": ("mean", "concat"),
    "temporal_fusion": ("mean", "attention"),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification", None),
}

# Largest value of each size, so that a saved configuration cannot exhaust a machine. Real models are far smaller.
_LARGEST = {
    "image_size": 2**14,
    "patch_size": 2**10,
    "num_channels": 2**12,
    "spectral_patch_size": 2**10,
    "hidden_size": 2**14,
    "num_hidden_layers": 2**9,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**16,
    "decoder_hidden_size": 2**14,
    "decoder_num_hidden_layers": 2**9,
    "decoder_num_attention_heads": 2**10,
    "decoder_intermediate_size": 2**16,
    "decode_hidden_size": 2**12,
}
_LARGEST_NUM_LABELS = 2**16


__all__ = ["SpectralGPTConfig"]
