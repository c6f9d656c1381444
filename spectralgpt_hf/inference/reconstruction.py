"""Mask most of an image, reconstruct it, and compare the result with simple baselines that need no network.

Images are (C, H, W), with each band normalised to [0, 1]. `masked` is (C, H, W), True where a token was masked.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch

from ..modeling.modeling_spectralgpt import SpectralGPTForPreTraining, mask_units, unpatchify


TILES_AT_ONCE = 4


@dataclass
class Reconstruction:
    """An image, its mask, and its reconstruction by a model.

    Attributes:
        original: (C, H, W).
        masked: (C, H, W), bool.
        reconstructed: (C, H, W), equal to `original` at visible pixels.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray


@torch.no_grad()
def reconstruct_image(
    model: SpectralGPTForPreTraining,
    image: torch.Tensor,
    seed: int = 0,
    mask_ratio: float | None = None,
    masking: str | None = None,
    before_tiles: Callable[[], None] = lambda: None,
) -> Reconstruction:
    """Mask and reconstruct an image of any size in tiles of at most the model's own size.

    Args:
        model: Model in evaluation mode.
        image: (C, H, W), normalised as a whole; H and W multiples of the patch size.
        seed: Seed of the mask.
        mask_ratio, masking: Values that are used instead of those of the model's configuration.
        before_tiles: Called before every few tiles. An exception that it raises ends the reconstruction.

    Raises:
        ValueError: If `mask_ratio` or `masking` has an impossible value.
    """
    config, (_, height, width) = copy(model.config), image.shape
    config.mask_ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    config.masking = config.masking if masking is None else masking
    config.check()
    model = copy(model)  # shares the weights, not the configuration
    model.config = config
    rows, columns = (_cuts(length, config.image_size, config.patch_size) for length in (height, width))
    windows: dict[tuple[int, int], list[tuple[slice, slice]]] = {}
    for window in product(rows, columns):
        windows.setdefault((window[0].stop - window[0].start, window[1].stop - window[1].start), []).append(window)

    generator = torch.Generator().manual_seed(seed)
    masked, reconstructed = torch.zeros_like(image, dtype=torch.bool), image.clone()
    for size, alike in windows.items():
        tiles = torch.stack([image[:, *window] for window in alike])
        grid = (
            -(-len(image) // config.spectral_patch_size),
            size[0] // config.patch_size,
            size[1] // config.patch_size,
        )
        _, num_units = mask_units(grid, config.masking)
        noise = torch.rand(len(tiles), num_units, generator=generator).to(image.device)
        mask = model.sample_mask(grid, noise)[1]
        token_size = config.spectral_patch_size * config.patch_size**2
        hidden = unpatchify(mask[..., None].expand(-1, -1, token_size), *size, config) == 1
        parts = []
        for images, order in zip(tiles.split(TILES_AT_ONCE), noise.split(TILES_AT_ONCE)):
            before_tiles()
            parts.append(model.reconstruct(images, noise=order).to(image.dtype))
        for window, where, tile in zip(alike, hidden, torch.cat(parts)):
            masked[:, *window], reconstructed[:, *window] = where, tile
    return Reconstruction(*(tensor.cpu().numpy() for tensor in (image, masked, reconstructed)))


def _cuts(length: int, size: int, patch_size: int) -> list[slice]:
    """Cut a length into the smallest number of parts of at most `size`, nearly equal and each of whole tokens."""
    count = -(-length // size)
    ends = [round(number * length / count / patch_size) * patch_size for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def simple_baselines(image: np.ndarray, masked: np.ndarray) -> dict[str, np.ndarray]:
    """Reconstruct masked pixels with simple baselines, each computed from the visible pixels only.

    Returns:
        Images (C, H, W) by name. Where all bands of a pixel are masked, the regression equals the interpolation.
    """
    linear = interpolation(image, masked)
    return {
        "band's mean": band_mean(image, masked),
        "linear interpolation of the visible tokens": linear,
        "linear regression from the visible bands": regression(image, masked, fallback=linear),
    }


def band_mean(image: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Fill masked pixels with the mean of the visible pixels of the band."""
    visible_mean = np.ma.masked_array(image, masked).mean(axis=(1, 2)).filled(0.5)
    return np.where(masked, visible_mean[:, None, None], image)


def interpolation(image: np.ndarray, masked: np.ndarray, patch_size: int = 8) -> np.ndarray:
    """Fill masked pixels by linear interpolation between the means of the band's visible tokens.

    The interpolation is linear on triangles between the centres of the visible tokens. Pixels outside all triangles get
    the value of the nearest token.
    """
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import ConvexHull, QhullError

    bands, height, width = image.shape
    tokens = image.reshape(bands, height // patch_size, patch_size, width // patch_size, patch_size).mean(axis=(2, 4))
    filled = band_mean(image, masked)
    # Bands of a spectral group are masked together, and therefore share their triangles.
    _, groups = np.unique(masked.reshape(bands, -1), axis=0, return_inverse=True)
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        positions = np.argwhere(~masked[members[0], ::patch_size, ::patch_size])
        if len(positions) < 4:
            continue
        centres = (positions + 0.5) * patch_size - 0.5
        values = tokens[members][:, *positions.T].T  # (patch positions, bands)
        wanted = np.argwhere(masked[members[0]])
        linear = NearestNDInterpolator(centres, values)(wanted)
        with suppress(QhullError):  # there are no triangles if all points are on one line
            # SciPy searches all triangles for a point that is in none. Testing the hull first is faster.
            hull = ConvexHull(centres).equations  # (edges, 3)
            inside = np.flatnonzero((hull[:, :2] @ wanted.T + hull[:, 2:] <= 0).all(axis=0))
            within = LinearNDInterpolator(centres, values)(wanted[inside])
            known = np.isfinite(within[:, 0])
            linear[inside[known]] = within[known]
        filled[members[:, None], *wanted.T] = linear.T
    return filled


def regression(image: np.ndarray, masked: np.ndarray, fallback: np.ndarray, spectral_patch_size: int = 3) -> np.ndarray:
    """Fill masked pixels by linear regression on the visible bands of the same patch position.

    There is one least-squares fit for each pair of spectral groups, on the pixels where both are visible. A pixel is
    filled by the fit with the smallest error, or from `fallback` (C, H, W) if no other band is visible.
    """
    filled = np.where(masked, fallback, image)
    groups = [slice(first, first + spectral_patch_size) for first in range(0, len(image), spectral_patch_size)]
    for target in groups:
        best_error = np.full(image.shape[1:], np.inf)
        for source in groups:
            both = ~masked[target.start] & ~masked[source.start]
            where = masked[target.start] & ~masked[source.start]
            if source == target or both.sum() <= spectral_patch_size + 1:
                continue
            design = np.vstack([image[source], np.ones_like(image[:1])])
            weights, *_ = np.linalg.lstsq(design[:, both].T, image[target][:, both].T, rcond=None)
            error = np.square(design[:, both].T @ weights - image[target][:, both].T).mean()
            where &= error < best_error
            filled[target][:, where] = (design[:, where].T @ weights).T
            best_error[where] = error
    return filled


def psnr(original: np.ndarray, reconstructed: np.ndarray, masked: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of the masked pixels, in dB. The peak is 1, the range of each band."""
    return float(-10 * np.log10(np.square(original - reconstructed)[masked].mean()))


def spectral_angle(original: np.ndarray, reconstructed: np.ndarray, masked: np.ndarray) -> float:
    """Return the mean angle between true and reconstructed spectra, in degrees, over the masked bands of each pixel.

    Pass the spectra as reflectance, because normalisation changes the angle between them.
    """
    original, reconstructed = original * masked, reconstructed * masked
    lengths = np.linalg.norm(original, axis=0) * np.linalg.norm(reconstructed, axis=0)
    counts = (masked.sum(axis=0) > 1) & (lengths > 0)
    cosine = (original * reconstructed).sum(axis=0)[counts] / lengths[counts]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
