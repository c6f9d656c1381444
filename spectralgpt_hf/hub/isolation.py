"""Load a checkpoint without this package and without a cache, from the code saved beside its weights.

This happens in a process of its own, which runs this file as a script. The file must therefore not import the package
when it runs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor


def forward_in_isolation(
    checkpoint: Path | str, architecture: str, *, revision: str | None = None, cache_dir: str | None = None
) -> dict[str, torch.Tensor]:
    """Return the outputs of a checkpoint in a process that cannot import this package.

    Nothing is downloaded: `checkpoint` is a folder, or a name on the Hub whose files are in the cache.

    Args:
        checkpoint: Absolute path, or name on the Hub.
        architecture: The class that the checkpoint was saved from.
        revision: Commit on the Hub.
        cache_dir: Cache folder with the Hub's files.

    Returns:
        The outputs of `forward`.

    Raises:
        ValueError: If the checkpoint does not load; the message ends with the last lines of the process's error.
    """
    with tempfile.TemporaryDirectory() as empty:
        output = Path(empty) / "outputs.safetensors"
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": empty, "HF_MODULES_CACHE": f"{empty}/modules"}
        if cache_dir:
            environment["HF_HUB_CACHE"] = cache_dir
        arguments = [str(checkpoint), architecture, str(output), revision or ""]
        # -P keeps the folder of this file out of the import path.
        process = subprocess.run(
            [sys.executable, "-P", __file__, *arguments], env=environment, cwd=empty, capture_output=True, text=True
        )
        if process.returncode:
            reason = "\n".join(process.stderr.strip().splitlines()[-5:])
            raise ValueError(f"{checkpoint} does not load where this package is not installed:\n{reason}")
        return load_file(output)


@torch.no_grad()
def forward(model: "PreTrainedModel", processor: "SpectralGPTImageProcessor") -> dict[str, torch.Tensor]:
    """Process a fixed image and run the model on it.

    Args:
        model: Model of any architecture, in evaluation mode.
        processor: Image processor of the checkpoint. Here and in `model`, the class may be one of remote code.

    Returns:
        All outputs by name, in float32.
    """
    bands = [band for band in dict.fromkeys(processor.bands) if band != "mean"]
    size = model.config.image_size
    # 4093 is a prime, so no two rows are alike.
    image = torch.arange(len(bands) * size * size).reshape(len(bands), size, size) % 4093
    statistics = processor.measure_statistics(image, band_names=bands)
    inputs = processor.preprocess(image, band_names=bands, statistics=statistics, return_tensors="pt")
    if type(model).__name__ == "SpectralGPTForChangeDetection":
        inputs["pixel_values_after"] = inputs["pixel_values"].flip(-1)
    torch.manual_seed(0)  # pretraining masks tokens at random
    outputs = {}
    for name, value in model(**inputs).items():
        for i, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            outputs[f"{name}.{i}"] = tensor.float().clone(memory_format=torch.contiguous_format)
    return outputs


def _main(checkpoint: str, architecture: str, output: str, revision: str) -> None:
    sys.modules["spectralgpt_hf"] = None  # type: ignore[assignment]  # makes an import of the package fail
    import transformers

    source = {"trust_remote_code": True} | ({"revision": revision} if revision else {})
    config = transformers.AutoConfig.from_pretrained(checkpoint, **source)
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint, **source)
    auto_class = next(name for name, path in config.auto_map.items() if path.endswith(f".{architecture}"))
    model = getattr(transformers, auto_class).from_pretrained(checkpoint, dtype=torch.float32, **source).eval()
    save_file(forward(model, processor), output)


if __name__ == "__main__":
    _main(*sys.argv[1:])
