"""Load a checkpoint as somebody does who has neither this package nor a cache: with the code saved beside its weights.

Imported, this file starts a process for that; run as a script, it is that process. So it must not import the package.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def forward_in_isolation(
    checkpoint: Path | str, architecture: str, *, revision: str | None = None, cache_dir: str | None = None
) -> dict[str, torch.Tensor]:
    """Return what a checkpoint computes where this package is not installed.

    Nothing is fetched: `checkpoint` is a folder, or a name on the Hub with its files in the cache.

    Args:
        checkpoint: Absolute path, or name on the Hub.
        architecture: The class that it was saved from.
        revision: Commit on the Hub.
        cache_dir: The cache, of the Hub's files.

    Returns:
        The outputs of `forward`.

    Raises:
        ValueError: If it does not load; the message ends as that process did.
    """
    with tempfile.TemporaryDirectory() as empty:
        output = Path(empty) / "outputs.safetensors"
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": empty, "HF_MODULES_CACHE": f"{empty}/modules"}
        if cache_dir:
            environment["HF_HUB_CACHE"] = cache_dir
        arguments = [str(checkpoint), architecture, str(output), revision or ""]
        # -P: the neighbours of this file cannot be imported by their bare names.
        process = subprocess.run(
            [sys.executable, "-P", __file__, *arguments], env=environment, cwd=empty, capture_output=True, text=True
        )
        if process.returncode:
            reason = "\n".join(process.stderr.strip().splitlines()[-5:])
            raise ValueError(f"{checkpoint} does not load where this package is not installed:\n{reason}")
        return load_file(output)


@torch.no_grad()
def forward(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    """Process and run one image, always the same.

    Args:
        model: Of any architecture, in evaluation mode.
        processor: Its image processor.

    Returns:
        All outputs, by name.
    """
    bands = [band for band in dict.fromkeys(processor.bands) if band != "mean"]
    size = model.config.image_size
    image = torch.arange(len(bands) * size * size).reshape(len(bands), size, size) % 4093  # prime: no two rows alike
    statistics = processor.measure_statistics(image, band_names=bands)
    inputs = processor(image, band_names=bands, statistics=statistics, return_tensors="pt")
    if type(model).__name__ == "SpectralGPTForChangeDetection":
        inputs["pixel_values_after"] = inputs["pixel_values"].flip(-1)
    torch.manual_seed(0)  # of the masking in pretraining
    outputs = {}
    for name, value in model(**inputs).items():
        for i, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            outputs[f"{name}.{i}"] = tensor.float().clone(memory_format=torch.contiguous_format)
    return outputs


def _main(checkpoint: str, architecture: str, output: str, revision: str) -> None:
    sys.modules["spectralgpt_hf"] = None  # type: ignore[assignment]  # importing it fails
    import transformers

    source = {"trust_remote_code": True} | ({"revision": revision} if revision else {})
    config = transformers.AutoConfig.from_pretrained(checkpoint, **source)
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint, **source)
    auto_class = next(name for name, path in config.auto_map.items() if path.endswith(f".{architecture}"))
    model = getattr(transformers, auto_class).from_pretrained(checkpoint, dtype=torch.float32, **source).eval()
    save_file(forward(model, processor), output)


if __name__ == "__main__":
    _main(*sys.argv[1:])
