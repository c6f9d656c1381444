"""Rows that hold a map of classes and the images of one or two dates, as whole scenes or as crops of one size."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset, List, Value

from ...modeling.rasters import open_raster
from ...modeling.sensors import model_sensor
from ..chip_grid import chip_corners
from .columns import MultispectralImage, Reference, SegmentationMap
from .common import FeatureType, PathLike, build_dataset, series_columns


@dataclass(frozen=True)
class Scene:
    """The files of one scene.

    Attributes:
        name: Name of the scene, with which the ids of its rows begin.
        images: Paths of the image, or of the images of both dates.
        segmentation_map: Path of the map, on the grid of the first image.
        site: Location on Earth, which must not be in two splits; the scene by default.
        offsets: For each image, the number that is added to its digital numbers instead of the offset in its metadata,
            or None; empty for the metadata of all.
        nodatas: For each image, the stored value that means no data, or None for the one that it declares; empty for
            what all declare.
        dates: Date of each image of a series, in ISO 8601; empty for one date or a pair.
    """

    name: str
    images: tuple[str, ...]
    segmentation_map: str
    site: str | None = None
    offsets: tuple[float | None, ...] = ()
    nodatas: tuple[float | None, ...] = ()
    dates: tuple[str, ...] = ()


def build_scene_dataset(
    root: PathLike,
    scenes: Sequence[Scene],
    image: MultispectralImage,
    segmentation_map: SegmentationMap,
    size: int | None = None,
    stride: int | None = None,
) -> Dataset:
    """Assemble rows of one date, two dates or a series with a map of classes.

    The columns are `id`, `pixels`, for two dates `pixels_after`, `bands`, `segmentation_map`, `scene`, `site` and
    `window`; those of a series as in `series_columns`.

    `window` is (left, top, width, height) in the scene, which is needed to stitch predictions, or None for
    whole scenes. If one date is smaller than the other, or a scene is smaller than a crop, the missing pixels are 0 in
    all bands, which means no data, and have no class in the map.

    Args:
        root: Folder of the dataset, for messages.
        scenes: Scenes, all of one date, of two, or series of any lengths.
        image: Type of the images.
        segmentation_map: Type of the maps.
        size: Height and width of a crop, in pixels; whole scenes by default.
        stride: Distance between crops, in pixels; `size` by default. Crops at the end of a row or column are moved
            inwards.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a map differs in size from its image, or there is no scene.
    """
    rows = [row for scene in scenes for row in _rows(scene, image, size, stride)]
    ids = [f"{scene.name}_{window[1]}_{window[0]}" if size and window else scene.name for scene, window, _ in rows]
    images = [
        [
            Reference(
                path=path,
                window=window,
                extent=extent,
                offset=scene.offsets[date] if scene.offsets else None,
                nodata=scene.nodatas[date] if scene.nodatas else None,
            )
            for date, path in enumerate(scene.images)
        ]
        for scene, window, extent in rows
    ]
    maps = [{"path": scene.segmentation_map, "window": window, "extent": extent} for scene, window, extent in rows]
    columns: dict[str, tuple[FeatureType, Sequence[object]]] = {}
    if rows and rows[0][0].dates:
        columns |= series_columns(image, images, [scene.dates for scene, _, _ in rows])
    elif rows and len(images[0]) == 2:
        columns["pixels_after"] = (image, [after for _, after in images])
    columns["segmentation_map"] = (segmentation_map, maps)
    columns["scene"] = (Value("string"), [scene.name for scene, _, _ in rows])
    columns["site"] = (Value("string"), [scene.site or scene.name for scene, _, _ in rows])
    columns["window"] = (List(Value("int32")), [window for _, window, _ in rows])
    return build_dataset(root, ids, image, [dates[0] for dates in images], **columns)


def _rows(
    scene: Scene, image: MultispectralImage, size: int | None, stride: int | None
) -> list[tuple[Scene, tuple[int, int, int, int] | None, tuple[int, int] | None]]:
    """Return the crops of a scene with the extent that all its files have. A whole single image is not opened."""
    if size is None and len(scene.images) == 1:
        return [(scene, None, None)]
    shapes = [_shape(path, image) for path in scene.images]
    height, width = shapes[0]
    map_shape = _shape(scene.segmentation_map)
    if map_shape != shapes[0]:
        raise ValueError(
            f"{scene.segmentation_map}: expected a map of {height} x {width} px as {scene.images[0]}, found "
            f"{map_shape[0]} x {map_shape[1]} px."
        )
    extent = (min(rows for rows, _ in shapes), min(columns for _, columns in shapes))
    if size is None:
        return [(scene, (0, 0, width, height), extent)]
    corners = chip_corners(height, width, size, stride)
    # If the second date is much smaller, some crops would be outside it.
    return [(scene, (left, top, size, size), extent) for left, top in corners if top < extent[0] and left < extent[1]]


def _shape(path: str, image: MultispectralImage | None = None) -> tuple[int, int]:
    if image is None:
        with open_raster(path, resolution=None) as reader:
            return reader.height, reader.width
    expected = model_sensor(image.sensor, image.bands, image.wavelengths)
    with open_raster(path, image.bands[:1], None, band_names=image.band_names, expected=expected) as reader:
        return reader.height, reader.width
