"""Search a STAC API for scenes of a region and a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rasterio.features import geometry_mask
from rasterio.transform import from_bounds


Item = Mapping[str, Any]
"""A STAC item, as parsed JSON."""

GRID = 256
"""Cells on a side of the grid on which the covered share of a region is measured."""


def search_items(
    url: str,
    collection: str,
    *,
    bbox: Sequence[float] | None = None,
    datetime: str | None = None,
    max_cloud: float | None = None,
) -> list[Item]:
    """Return the items of a collection that meet a region and a time, the oldest first.

    Args:
        url: Landing page of the API, such as https://earth-search.aws.element84.com/v1.
        collection: Id of the collection, such as sentinel-2-l2a.
        bbox: Region (west, south, east, north) in degrees of longitude and latitude.
        datetime: Date, or interval `2024-06-01/2024-08-31`, as in the STAC API.
        max_cloud: Largest share of clouds in percent. Items that do not state theirs (`eo:cloud_cover`) are left out.

    Raises:
        ImportError: If pystac-client is not installed.
        ValueError: If the API cannot be read, or there is no such item.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
    except ImportError as error:
        raise ImportError("Searching a STAC API needs pystac-client: `pip install spectralgpt-hf[stac]`.") from error
    try:
        search = Client.open(url, modifier=_signer(url)).search(
            collections=[collection], bbox=list(bbox) if bbox is not None else None, datetime=datetime
        )
        found = list(search.items_as_dicts())
    except (APIError, OSError, ValueError) as error:
        raise ValueError(f"{url}: expected a STAC API with a search; it failed: {str(error)[:200]}") from error
    # Not every API can compare properties, so the share of clouds is compared here.
    kept = [item for item in found if max_cloud is None or _clouds(item) <= max_cloud]
    if not kept:
        clouds = f", but none of them has clouds of at most {max_cloud:g} %" if found else ""
        raise ValueError(f"{url}: found {len(found)} items of {collection} for this region and time{clouds}.")
    return sorted(kept, key=lambda item: str(item["properties"].get("datetime")))


def choose_item(items: Sequence[Item], bbox: Sequence[float]) -> Item:
    """Return the item with the fewest clouds among those that cover a region; of equal ones, the latest.

    Args:
        items: As `search_items` returns them.
        bbox: Region (west, south, east, north) in degrees of longitude and latitude.

    Raises:
        ValueError: If none of them covers the whole region.
    """
    shares = [covered_share(item, bbox) for item in items]
    whole = [item for item, share in zip(items, shares, strict=True) if share == 1]
    if not whole:
        best = int(np.argmax(shares))
        raise ValueError(
            f"No item covers the whole of `bbox`; {items[best]['id']} covers most of it, {shares[best]:.0%}. Choose a "
            "smaller region, or map all items with `spectralgpt archive`."
        )
    return max(whole, key=lambda item: (-_clouds(item), str(item["properties"].get("datetime"))))


def cloud_cover(item: Item) -> float | None:
    """Return the share of clouds in percent; None if the item does not state it."""
    stated = item["properties"].get("eo:cloud_cover")
    return None if stated is None else float(stated)


def covered_share(item: Item, bbox: Sequence[float]) -> float:
    """Return the share of a region (west, south, east, north) that the footprint of an item covers, 0 to 1."""
    outside = geometry_mask([item["geometry"]], (GRID, GRID), from_bounds(*bbox, GRID, GRID))
    return float(1 - outside.mean())


def _clouds(item: Item) -> float:
    """Return the share of clouds, to compare items: those that do not state it come last."""
    stated = cloud_cover(item)
    return math.inf if stated is None else stated


def _signer(url: str) -> Any:
    """Return the function that signs links of the Planetary Computer. Links of other APIs can be read as they are."""
    if "planetarycomputer.microsoft.com" not in url:
        return None
    try:
        from planetary_computer import sign_inplace
    except ImportError as error:
        raise ImportError("Links of the Planetary Computer need signing: `pip install planetary-computer`.") from error
    return sign_inplace
