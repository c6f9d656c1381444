"""Monitoring of pretraining: a log of JSON lines, the speed of steps, and pictures of reconstructions."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch

from ..files import write_text
from ..inference.pictures import reconstruction_panel, sensor_channels
from ..inference.reconstruction import Reconstruction
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import unpatchify


# Dense FLOP/s in bfloat16 or float16, from the data sheets of the makers. The rates of other devices are measured.
STATED_RATES = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


class JsonLinesLog:
    """A file with one JSON object per line, to which a resumed run appends.

    Args:
        path: Path of the file, which is created with the first record.
        keep: Returns whether a record of an earlier run is kept. Truncated lines are dropped.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Callable[[dict[str, object]], bool]) -> None:
        self._path, self._keep = Path(path), keep
        self._file: TextIO | None = None

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record and flush it to the file."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _open(self) -> TextIO:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        records = [record for record in map(_parse, lines) if record and self._keep(record)]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
        return self._path.open("a")


class Throughput:
    """Measures the speed of training steps between two calls of `restart` or `rates`.

    Args:
        samples: Images per step, over all processes.
        seconds: Shortest time that a step could take on this hardware.
    """

    def __init__(self, samples: int, seconds: float) -> None:
        self._samples, self._shortest = samples, seconds
        self.restart()

    def restart(self) -> None:
        """Begin a new measurement."""
        self._steps, self._waited, self._started = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a `with` statement as time spent waiting for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    def rates(self) -> dict[str, float]:
        """Return the speed of the steps so far, and begin a new measurement."""
        seconds = time.perf_counter() - self._started
        rates = {
            "samples_per_second": self._steps * self._samples / seconds,
            "flops_utilisation": self._steps * self._shortest / seconds,
            "data_wait": self._waited / seconds,
        }
        self.restart()
        return rates


def draw_reconstruction(
    image: torch.Tensor, mask: torch.Tensor, logits: torch.Tensor, config: SpectralGPTConfig, path: Path
) -> None:
    """Draw an image, its visible tokens and its reconstruction.

    Nothing is written if the model predicts patches that are normalised one by one (`norm_pix_loss`), or if a band of
    the composites is missing.

    Args:
        image: (C, H, H), the normalised input.
        mask: (N,), 1 for the tokens that were masked.
        logits: (N, values per token), the prediction.
        config: Configuration of the model.
        path: File to write.
    """
    sensor, bands = config.expected_sensor, config.bands or ()
    if config.norm_pix_loss or sensor_channels(("B2", "B3", "B4", "B8"), bands, sensor) is None:
        return
    size = image.shape[-1]
    masked, reconstructed = (
        unpatchify(tokens[None], size, size, config)[0].float().cpu()
        for tokens in (mask[:, None].expand(-1, logits.shape[-1]), logits.float())
    )
    original = image.cpu()
    reconstructed = torch.where(masked == 1, reconstructed, original)
    shown = Reconstruction(original.numpy(), masked.numpy() == 1, reconstructed.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    images = (shown.original, shown.reconstructed)
    reconstruction_panel(shown, images, bands, path=path, title=path.stem, sensor=sensor)


def step_flops(config: SpectralGPTConfig) -> float:
    """Return the floating-point operations of a step per sample.

    Only matrix products are counted. The backward pass takes twice as many as the forward pass.
    """
    tokens = config.num_groups * (config.image_size // config.patch_size) ** 2
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
    """Return the FLOP/s of a device: for 16 bits those of its data sheet, otherwise those measured on a product."""
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


def _parse(line: str) -> dict[str, object] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
