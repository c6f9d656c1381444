"""What a run tells about itself: a log that survives it, and how much of the hardware it uses."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch

from ..files import write_text
from ..modeling.configuration_spectralgpt import SpectralGPTConfig


# FLOP/s in bfloat16 or float16, dense, as the makers state them. Others are measured.
STATED_RATES = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


class JsonLinesLog:
    """A file with one JSON object a line, which a run that resumes goes on with.

    Args:
        path: The file. It is made by the first record.
        keep: Which records of an earlier run stay; a line that was cut off does not.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Callable[[dict[str, Any]], bool]) -> None:
        self._path, self._keep = Path(path), keep
        self._file: TextIO | None = None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it is in the file when this returns."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _open(self) -> TextIO:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        records = [record for record in map(_parse, lines) if record and self._keep(record)]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
        return self._path.open("a")


def step_flops(config: SpectralGPTConfig) -> float:
    """Return the floating-point operations of one sample and step: matrix products, backward twice the forward."""
    tokens = config.num_channels // config.spectral_patch_size * (config.image_size // config.patch_size) ** 2
    visible = int(tokens * (1 - config.mask_ratio))
    values = config.spectral_patch_size * config.patch_size**2

    def layers(count: int, width: int, mlp: int, length: int) -> float:
        return count * (2 * length * (4 * width**2 + 2 * width * mlp) + 4 * length**2 * width)

    decoder = config.decoder_config()
    forward = layers(config.num_hidden_layers, config.hidden_size, config.intermediate_size, visible)
    forward += layers(decoder.num_hidden_layers, decoder.hidden_size, decoder.intermediate_size, tokens)
    forward += 2 * visible * (values + decoder.hidden_size) * config.hidden_size  # into and out of the encoder
    forward += 2 * tokens * decoder.hidden_size * values  # the prediction
    return 3 * forward


def attainable_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a device: as its maker states them for 16 bits, else those of a matrix product, measured."""
    if device.type == "cuda" and dtype != torch.float32:
        name = torch.cuda.get_device_name(device)
        stated = [rate for part, rate in STATED_RATES.items() if part in name]
        if stated:
            return stated[0]
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
