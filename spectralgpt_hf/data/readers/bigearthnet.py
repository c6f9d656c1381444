"""BigEarthNet-S2, version 1 (Sumbul et al., 2019) and 2 (reBEN, Clasen et al., 2024): Sentinel-2 L2A patches of Europe
with the CORINE land-cover classes that occur in them.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, List
from datasets.utils import tqdm

from ...modeling.bands import BIGEARTHNET_BANDS
from .columns import MultispectralImage, SegmentationMap
from .common import (
    SPLITS,
    FeatureType,
    PathLike,
    Split,
    build_dataset,
    class_number,
    find_folder,
    hold_out,
    read_names,
    split_name,
)


# CORINE level-3 code, name in version 1, and name among the 19 classes, which eleven classes do not have. The order of
# the codes is that of the published class numbers.
_CORINE: tuple[tuple[int, str, str | None], ...] = (
    (111, "Continuous urban fabric", "Urban fabric"),
    (112, "Discontinuous urban fabric", "Urban fabric"),
    (121, "Industrial or commercial units", "Industrial or commercial units"),
    (122, "Road and rail networks and associated land", None),
    (123, "Port areas", None),
    (124, "Airports", None),
    (131, "Mineral extraction sites", None),
    (132, "Dump sites", None),
    (133, "Construction sites", None),
    (141, "Green urban areas", None),
    (142, "Sport and leisure facilities", None),
    (211, "Non-irrigated arable land", "Arable land"),
    (212, "Permanently irrigated land", "Arable land"),
    (213, "Rice fields", "Arable land"),
    (221, "Vineyards", "Permanent crops"),
    (222, "Fruit trees and berry plantations", "Permanent crops"),
    (223, "Olive groves", "Permanent crops"),
    (231, "Pastures", "Pastures"),
    (241, "Annual crops associated with permanent crops", "Permanent crops"),
    (242, "Complex cultivation patterns", "Complex cultivation patterns"),
    (
        243,
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    (244, "Agro-forestry areas", "Agro-forestry areas"),
    (311, "Broad-leaved forest", "Broad-leaved forest"),
    (312, "Coniferous forest", "Coniferous forest"),
    (313, "Mixed forest", "Mixed forest"),
    (321, "Natural grassland", "Natural grassland and sparsely vegetated areas"),
    (322, "Moors and heathland", "Moors, heathland and sclerophyllous vegetation"),
    (323, "Sclerophyllous vegetation", "Moors, heathland and sclerophyllous vegetation"),
    (324, "Transitional woodland/shrub", "Transitional woodland, shrub"),
    (331, "Beaches, dunes, sands", "Beaches, dunes, sands"),
    (332, "Bare rock", None),
    (333, "Sparsely vegetated areas", "Natural grassland and sparsely vegetated areas"),
    (334, "Burnt areas", None),
    (411, "Inland marshes", "Inland wetlands"),
    (412, "Peatbogs", "Inland wetlands"),
    (421, "Salt marshes", "Coastal wetlands"),
    (422, "Salines", "Coastal wetlands"),
    (423, "Intertidal flats", None),
    (511, "Water courses", "Inland waters"),
    (512, "Water bodies", "Inland waters"),
    (521, "Coastal lagoons", "Marine waters"),
    (522, "Estuaries", "Marine waters"),
    (523, "Sea and ocean", "Marine waters"),
)
BIGEARTHNET_43_CLASSES = tuple(name for _, name, _ in _CORINE)
BIGEARTHNET_19_CLASSES = tuple(dict.fromkeys(name for _, _, name in _CORINE if name is not None))


def load_bigearthnet_v1(
    root: PathLike, split: Split = "train", *, num_classes: int = 19, share: float = 1.0, seed: int = 0
) -> Dataset:
    """List BigEarthNet-S2 version 1: `BigEarthNet-v1.0/<patch>/<patch>_B01.tif ...` and `<patch>_labels_metadata.json`.

    Rows hold `id`, `pixels` (12, 120, 120) on the 10 m grid, `bands` and `labels`, the numbers of the classes. Listing
    reads one small JSON file per patch, and no image.

    Args:
        root: Any ancestor of the patches.
        split: "train", "validation" or "test" by the official lists `bigearthnet-{train,val,test}.csv`, which must be
            below `root`; "all" for all patches below `root`; the path of another list; or names of patches.
        num_classes: 19 or 43. Eleven of the 43 classes have no counterpart among the 19, so with "all" or with another
            list some patches may have no label. The official lists hold no such patch.
        share: Share of the split to take, such as 0.1.
        seed: Seed of the random choice of this share.

    Raises:
        FileNotFoundError: If the list, the patches or the labels of one are missing.
        ValueError: If labels are damaged or unknown.
    """
    names = {19: BIGEARTHNET_19_CLASSES, 43: BIGEARTHNET_43_CLASSES}.get(num_classes)
    if names is None:
        raise ValueError(f"Expected `num_classes` to be 19 or 43, got {num_classes}.")
    published = split_name(split)
    if published == "all":
        folder = find_folder(root, "S2[AB]_MSIL2A_*/*_labels_metadata.json")
        patches = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith("S2") and entry.is_dir())
    else:
        file = "" if published is None else f"bigearthnet-{SPLITS[published][0]}.csv"
        patches = read_names(find_folder(root, file) / file if file else split)
        folder = find_folder(root, patches[0])
    chosen = hold_out(patches, share, seed)
    patches = [patch for patch in patches if patch in chosen]
    original = {name: number for number, name in enumerate(BIGEARTHNET_43_CLASSES)}
    merged = {name: BIGEARTHNET_19_CLASSES.index(new) for _, name, new in _CORINE if new is not None}
    files = [os.path.join(folder, patch, f"{patch}_labels_metadata.json") for patch in patches]
    labels = []
    for file, found in zip(files, _read_all_labels(files)):
        numbers = [class_number(name, original, file) for name in found]
        if num_classes == 19:
            numbers = [merged[name] for name in found if name in merged]
        labels.append(sorted(set(numbers)))
    paths = [os.path.join(folder, patch) for patch in patches]
    return build_dataset(
        root,
        patches,
        MultispectralImage(list(BIGEARTHNET_BANDS)),
        paths,
        labels=(List(ClassLabel(names=list(names))), labels),
    )


def load_bigearthnet_v2(
    root: PathLike, split: Split = "train", *, share: float = 1.0, seed: int = 0, reference_maps: bool = False
) -> Dataset:
    """List BigEarthNet version 2 (reBEN): `BigEarthNet-S2/<tile>/<patch>/<patch>_B01.tif ...` and `metadata.parquet`.

    Rows hold `id`, `pixels` (12, 120, 120) on the 10 m grid, `bands`, and `labels`, the numbers of the classes among
    the 19. With `reference_maps` they also hold `segmentation_map` (120, 120), 255 where the land cover is none of the
    19. Listing reads only the metadata.

    Args:
        root: Any ancestor of the metadata, the patches and the reference maps.
        split: "train", "validation" or "test" as the metadata state; "all"; the path of a list of patches; or names of
            patches.
        share, seed: As in `load_bigearthnet_v1`.
        reference_maps: Whether to add `Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif`.

    Raises:
        FileNotFoundError: If the metadata, the patches or the maps are missing.
        ValueError: If the metadata are damaged, lack a patch or name an unknown class.
    """
    file = find_folder(root, "metadata.parquet") / "metadata.parquet"
    metadata = _select(file, _read_metadata(file), split)
    chosen = hold_out(metadata["patch_id"].to_pylist(), share, seed)
    metadata = metadata.filter(pc.is_in(metadata["patch_id"], pa.array(chosen, pa.string())))
    patches = metadata["patch_id"].to_pylist()
    if not patches:
        raise ValueError(f"{file}: no patch in a share of {share} of the split {split!r}.")
    numbers = {name: number for number, name in enumerate(BIGEARTHNET_19_CLASSES)}
    labels = [
        sorted([class_number(name, numbers, file, patch) for name in names])
        for patch, names in zip(patches, metadata["labels"].to_pylist())
    ]
    columns: dict[str, tuple[FeatureType, Sequence[object]]] = {
        "labels": (List(ClassLabel(names=list(BIGEARTHNET_19_CLASSES))), labels)
    }
    # The folder of `S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57` has this name without the last two fields.
    folders = [f"{patch.rsplit('_', 2)[0]}/{patch}" for patch in patches]
    if reference_maps:
        maps = [f"{within}/{patch}_reference_map.tif" for within, patch in zip(folders, patches)]
        folder = find_folder(root, maps[0])
        columns["segmentation_map"] = (_reference_map(), [f"{folder}/{path}" for path in maps])
    folder = find_folder(root, f"{folders[0]}/*_B02.tif")
    return build_dataset(
        root,
        patches,
        MultispectralImage(list(BIGEARTHNET_BANDS)),
        [f"{folder}/{within}" for within in folders],
        **columns,
    )


def _reference_map() -> SegmentationMap:
    known = [(code, BIGEARTHNET_19_CLASSES.index(name)) for code, _, name in _CORINE if name is not None]
    codes, labels = ([pair[i] for pair in known] for i in (0, 1))
    return SegmentationMap(list(BIGEARTHNET_19_CLASSES), codes, labels, ignore_unknown=True)


def _read_metadata(file: PathLike) -> pa.Table:
    try:
        return pq.read_table(file, columns=["patch_id", "labels", "split"]).combine_chunks()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: expected a Parquet table with patch_id, labels and split ({error}).") from error


def _select(file: PathLike, metadata: pa.Table, split: Split) -> pa.Table:
    """Return the rows of a split, or the rows of a list in the order of the list."""
    published = split_name(split)
    if published == "all":
        return metadata
    if published is not None:
        return metadata.filter(pc.is_in(metadata["split"], pa.array(SPLITS[published])))
    patches = read_names(split)
    rows = pc.index_in(pa.array(patches), metadata["patch_id"])
    absent = [patch for patch, row in zip(patches, rows) if not row.is_valid]
    if absent:
        raise ValueError(
            f"{file}: expected all patches of the list, {absent[0]!r} and {len(absent) - 1} more are missing. "
            "Patches with snow, clouds or shadow are listed in another file, which is not supported."
        )
    return metadata.take(rows)


def _read_all_labels(files: Sequence[str]) -> list[list[str]]:
    """Read many small files in threads, because on network disks most of the time is spent waiting."""
    chunks = [files[start : start + 1000] for start in range(0, len(files), 1000)]
    with ThreadPoolExecutor(16) as pool, tqdm(total=len(files), desc="Reading labels", unit="patch") as progress:
        labels = []
        for chunk in pool.map(lambda chunk: [_read_labels(file) for file in chunk], chunks):
            labels += chunk
            progress.update(len(chunk))
    return labels


def _read_labels(file: str) -> list[str]:
    try:
        with open(file, "rb") as stream:
            labels = json.load(stream)["labels"]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise TypeError(f"labels are {labels!r}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; expected the labels of a BigEarthNet v1 patch.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected JSON with a list of class names in `labels` ({error!r}).") from error
    return labels
