"""Load checkpoints for commands and examples: the model of their task and its processor, on the right device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.utils import logging

from ..assets import find_checkpoint
from ..modeling import modeling_spectralgpt
from ..modeling.band_plan import require_same_bands
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTModel, SpectralGPTPreTrainedModel
from .streaming import Processes


ADAPTER = "adapter_config.json"
Model = TypeVar("Model", bound=SpectralGPTPreTrainedModel)


def load_model(
    checkpoint: str, device: str | None = None, dtype: str = "float32", *, revision: str = "main", **options: object
) -> tuple[Any, SpectralGPTImageProcessor]:
    """Load the model that a checkpoint was saved from, in evaluation mode, and its processor.

    A folder may hold an adapter of PEFT beside the model's `config.json`: the adapter's base is loaded, and merged.

    Args:
        checkpoint: Folder, name on the Hub, or alias of an embedded one, as in `assets.find_checkpoint`.
        device: Device of the model. By default an accelerator if there is one, and under `accelerate launch` that of
            the process.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.
        revision: Branch, tag or commit on the Hub.
        **options: Attributes of the processor to replace. Those that are None are not replaced.

    Raises:
        ValueError: If the checkpoint is damaged or does not state a SpectralGPT class, `device` is not available, or
            `dtype` is unknown.
        FileNotFoundError: If there is no such checkpoint.
    """
    checkpoint = find_checkpoint(checkpoint, revision)
    with reading(checkpoint):
        names = AutoConfig.from_pretrained(checkpoint, revision=revision).architectures or ["none"]
    if names[0] not in modeling_spectralgpt.__all__:
        raise ValueError(f"{checkpoint}: expected a SpectralGPT model in `architectures`, found {names[0]}.")
    return _load(getattr(modeling_spectralgpt, names[0]), checkpoint, device, dtype, revision, options)


def load_encoder(
    checkpoint: str, device: str | None = None, dtype: str = "float32", *, revision: str = "main", **options: object
) -> tuple[SpectralGPTModel, SpectralGPTImageProcessor]:
    """Load the encoder of any checkpoint, in evaluation mode, and the processor; arguments as in `load_model`."""
    return _load(SpectralGPTModel, find_checkpoint(checkpoint, revision), device, dtype, revision, options)


@contextmanager
def without_weight_bars() -> Iterator[None]:
    """Let transformers load and write weights without its progress bars. Those of downloads are not affected."""
    previous = logging.set_tqdm_hook(lambda _, arguments, options: logging.EmptyTqdm(*arguments, **options))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


@contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Load from a checkpoint without progress bars, and convert the errors that libraries raise for a damaged one.

    Raises:
        ValueError: If it is damaged; the message names it.
    """
    try:
        with without_weight_bars():
            yield
    except (SafetensorError, StrictDataclassError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        # transformers first prints a report of the tensors whose shapes differ.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{checkpoint}: the files of this checkpoint are damaged or do not belong together ({reason}). Copy or "
            "download it again."
        ) from error
    except ValueError as error:
        if checkpoint in str(error):
            raise
        raise ValueError(f"{checkpoint}: {error}") from error


def check_model(model: SpectralGPTPreTrainedModel, processor: SpectralGPTImageProcessor) -> None:
    """Check that a model is in evaluation mode, and that it expects the bands of a processor.

    Raises:
        ValueError: If the model is in training mode, or expects other bands, in another order, or of another sensor.
    """
    if model.training:
        raise ValueError("Expected a model in evaluation mode: call `model.eval()`.")
    require_same_bands(model.config.bands or (), processor.bands, (model.config.sensor, processor.sensor))


def _load(
    model_class: type[Model], checkpoint: str, device: str | None, dtype: str, revision: str, options: dict[str, Any]
) -> tuple[Model, SpectralGPTImageProcessor]:
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"Expected a dtype of float32, bfloat16 or float16, got {dtype}.")
    try:
        target = torch.device(device or Processes().device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without that kind of device
        raise ValueError(f"`device` {device!r} cannot be used here: {error}") from error
    settings: dict[str, Any] = {"revision": revision, "dtype": getattr(torch, dtype)}
    chosen = {name: value for name, value in options.items() if value is not None}
    with reading(checkpoint):
        if Path(checkpoint, ADAPTER).is_file():
            model = _with_adapter(model_class, checkpoint, settings)
        else:
            model = model_class.from_pretrained(checkpoint, **settings)
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint, revision=revision, **chosen)
    require_same_bands(model.config.bands, processor.bands, (model.config.sensor, processor.sensor))
    return model.to(target).eval(), processor


def _with_adapter(model_class: Any, folder: str, settings: dict[str, object]) -> Any:
    """Return the model of a folder that holds an adapter of PEFT and the whole model's `config.json`."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ImportError(f"{folder} holds an adapter, which needs peft: pip install spectralgpt-hf[train].") from error
    base = find_checkpoint(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    model = model_class.from_pretrained(base, config=AutoConfig.from_pretrained(folder), **settings)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()
