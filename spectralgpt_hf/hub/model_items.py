"""Write the STAC item of a checkpoint, with the extension for machine learning models (MLM).

Catalogues and their tools read from it the input and output of the model: https://github.com/stac-extensions/mlm.
"""

import re
from pathlib import Path

import torch

from ..files import write_json
from ..inference.stac_items import MODEL_ITEM, open_period
from ..modeling.bands import PSEUDO_BAND_MEAN, Band
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.normalization import LIMITS
from ..modeling.pixel_statistics import StatisticName
from .info import describe_checkpoint


MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
CODE = "modeling_spectralgpt.py"

TASKS = {
    "SpectralGPTForImageClassification": "scene-classification",
    "SpectralGPTForSemanticSegmentation": "semantic-segmentation",
    "SpectralGPTForChangeDetection": "segmentation",
    "SpectralGPTForPreTraining": "generative",
}
"""Tasks from the list of the extension, by architecture. The task of encoders is `similarity-search`."""

COMMON_NAMES = (
    *("coastal", "blue", "green", "yellow", "red", "rededge"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
)
"""Common names of bands in the EO extension, which are aliases in the tables of sensors."""


def write_model_item(folder: Path, name: str | None = None) -> None:
    """Write `stac_item.json` into the folder of a checkpoint; arguments as in `describe_model`."""
    write_json(folder / MODEL_ITEM, describe_model(folder, name))


def describe_model(folder: Path, name: str | None = None) -> dict[str, object]:
    """Return the STAC item of a checkpoint.

    Args:
        folder: Folder of the checkpoint, to which the links of the item are relative.
        name: Name of the model; by default that of the folder.

    Raises:
        ValueError: If the folder does not hold a SpectralGPT checkpoint.
        OSError: If there is no such checkpoint.
    """
    info = describe_checkpoint(folder)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or folder.resolve().name).strip("-_.")
    identifier = plain if re.match(r"[A-Za-z]..", plain) else f"spectralgpt-{plain or 'model'}"
    task = TASKS.get(info.architecture, "similarity-search")
    sensor = info.config.expected_sensor
    bands = [sensor.band(name) for name in info.processor.bands if name != PSEUDO_BAND_MEAN]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, EO],
        "id": identifier,
        # Wherever and whenever the sensor sees the ground.
        "geometry": {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]},
        "bbox": [-180, -90, 180, 90],
        "properties": {
            **open_period(sensor),
            "description": f"{info.architecture}, a spectral transformer for images of {sensor}.",
            "eo:bands": [_describe_band(band) for band in bands],
            "mlm:name": identifier,
            "mlm:architecture": "SpectralGPT",
            "mlm:tasks": [task],
            "mlm:framework": "PyTorch",
            "mlm:framework_version": torch.__version__,
            "mlm:memory_size": info.weight_bytes,
            "mlm:total_parameters": info.num_parameters,
            "mlm:pretrained": True,
            "mlm:accelerator": None,
            "mlm:accelerator_constrained": False,
            "mlm:batch_size_suggestion": 32,
            "mlm:input": _inputs(info.architecture, info.config, info.processor),
            "mlm:output": [_output(info.architecture, info.config, task)],
            "mlm:hyperparameters": {
                "patch_size": info.config.patch_size,
                "spectral_patch_size": info.config.spectral_patch_size,
                "hidden_size": info.config.hidden_size,
                "num_hidden_layers": info.config.num_hidden_layers,
            },
        },
        "links": [],
        "assets": _assets(folder, info.architecture),
    }


def _describe_band(band: Band) -> dict[str, object]:
    aliases = [re.sub(r"^red_edge.*", "rededge", alias) for alias in (band.name, *band.aliases)]
    common = [alias for alias in aliases if alias in COMMON_NAMES]
    described: dict[str, object] = {"name": band.name}
    if common:
        described["common_name"] = common[-1]  # the most specific one
    if band.wavelength is not None:
        described["center_wavelength"] = round(band.wavelength / 1000, 4)  # in micrometres
    return described


def _inputs(
    architecture: str, config: SpectralGPTConfig, processor: SpectralGPTImageProcessor
) -> list[dict[str, object]]:
    names = ["pixel_values"]
    if architecture == "SpectralGPTForChangeDetection":
        names.append("pixel_values_after")
    return [
        {
            "name": name,
            "description": "Digital numbers (reflectance x 10000) of these bands, normalised by the image processor.",
            "bands": list(processor.bands),
            "input": {
                "shape": [-1, config.num_channels, config.image_size, config.image_size],
                "dim_order": ["batch", "bands", "height", "width"],
                "data_type": "float32",
            },
            "value_scaling": _scaling(processor),
            "resize_type": "interpolation-linear" if processor.do_resize else None,
            "pre_processing_function": {
                "format": "python",
                "expression": "spectralgpt_hf:SpectralGPTImageProcessor",
            },
        }
        for name in names
    ]


def _scaling(processor: SpectralGPTImageProcessor) -> list[dict[str, object]] | None:
    """Return the limits of each band, in digital numbers; None where they are measured on each image."""
    if processor.measures_pixels:
        return None
    statistics = processor.statistics

    def look_up(key: StatisticName) -> list[float]:
        values = getattr(processor, key) if statistics is None else dict(zip(statistics["bands"], statistics[key]))
        return [values[band] for band in processor.bands]

    first, second = (look_up(key) for key in LIMITS[processor.normalization])
    if processor.normalization == "zscore":
        return [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(first, second)]
    if processor.normalization == "sigma_clip":
        limits = [(mean - 2 * std, mean + 2 * std) for mean, std in zip(first, second)]
        first, second = [low for low, _ in limits], [high for _, high in limits]
    return [{"type": "min-max", "minimum": low, "maximum": high} for low, high in zip(first, second)]


def _output(architecture: str, config: SpectralGPTConfig, task: str) -> dict[str, object]:
    size, names = config.image_size, [str(name) for name in (config.id2label or {}).values()]
    if architecture == "SpectralGPTForPreTraining":
        shape, order = [-1, config.num_channels, size, size], ["batch", "channel", "height", "width"]
    elif architecture == "SpectralGPTForImageClassification":
        shape, order = [-1, len(names)], ["batch", "class"]
    elif task in ("semantic-segmentation", "segmentation"):
        shape, order = [-1, len(names), size, size], ["batch", "class", "height", "width"]
    else:
        shape, order = [-1, config.hidden_size], ["batch", "embedding"]
    result: dict[str, object] = {
        "name": "logits" if "class" in order else "reconstruction" if "channel" in order else "pooler_output",
        "tasks": [task],
        "result": {"shape": shape, "dim_order": order, "data_type": "float32"},
    }
    if "class" in order and config.problem_type != "regression":
        result["classification:classes"] = [
            {"value": number, "name": re.sub(r"[^\w-]+", "_", label), "description": label}
            for number, label in enumerate(names)
        ]
    return result


def _assets(folder: Path, architecture: str) -> dict[str, object]:
    weights = sorted(folder.glob("model*.safetensors"))
    return {
        **{
            path.stem: {
                "href": f"./{path.name}",
                "type": "application/vnd.safetensors",
                "roles": ["mlm:model", "mlm:weights", "data"],
                "mlm:artifact_type": "safetensors.torch.save_file",
            }
            for path in weights
        },
        "configuration": {"href": "./config.json", "type": "application/json", "roles": ["metadata"]},
        "processor": {"href": "./preprocessor_config.json", "type": "application/json", "roles": ["metadata"]},
        "code": {
            "href": f"./{CODE}",
            "type": "text/x-python",
            "roles": ["mlm:source_code", "code"],
            "mlm:entrypoint": f"modeling_spectralgpt:{architecture}",
        },
    }
