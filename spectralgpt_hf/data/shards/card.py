"""The dataset card of a folder of shards, with the metadata of the Hub."""

from collections.abc import Mapping, Sequence

from huggingface_hub import DatasetCardData

from ...modeling.bands import SENTINEL_2, Sensor
from ...modeling.pixel_statistics import StatisticName
from .format import ReportRecord
from .histograms import BandStatistics


def render_card(
    name: str,
    dataset: str,
    sensor: Sensor,
    rows: Mapping[str, int],
    statistics: Mapping[str, BandStatistics],
    report: ReportRecord,
    class_names: Sequence[str] | None = None,
    license: str | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        name: Title of the card.
        dataset: The argument `dataset` of `prepare_shards`.
        sensor: Sensor of the images.
        rows: Number of rows of each split.
        statistics: Statistics of each split.
        report: Report on the samples that became no rows.
        class_names: Names of the classes, if rows have labels.
        license: Licence of the data, as an identifier of the Hub.
    """
    total = sum(rows.values())
    metadata = DatasetCardData(
        pretty_name=name,
        license=license,
        tags=["remote-sensing", "earth-observation", sensor.name, "multispectral", "spectralgpt"],
        task_categories=["image-classification"] if class_names else ["image-feature-extraction"],
        size_categories=[next(text for limit, text in _SIZES if total < limit)],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    )
    first = next(iter(statistics.values()))
    lines = [
        f"| {band} | " + " | ".join(f"{first[key][i]:.6g}" for key in _SHOWN) + " |"
        for i, band in enumerate(first["bands"])
    ]
    return _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=name,
        source=_SOURCES[dataset].format(sensor),
        splits=", ".join(f"{count:,} in `{split}`" for split, count in rows.items()),
        classes=f"Classes: {', '.join(class_names)}.\n\n" if class_names else "",
        unreadable=len(report["unreadable"]),
        left_out=len(report["left_out"]),
        split=next(iter(statistics)),
        header=" | ".join(_SHOWN.values()),
        rule="---|" * (len(_SHOWN) + 1),
        table="\n".join(lines),
        label=_LABEL if class_names else "",
        attribution=_ATTRIBUTION if sensor.name == SENTINEL_2.name else "",
    )


_SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (float("inf"), "10M<n<100M"),
)
_SHOWN: dict[StatisticName, str] = {
    "minimum": "minimum",
    "percentile_1": "1 %",
    "mean": "mean",
    "std": "std",
    "percentile_99": "99 %",
    "maximum": "maximum",
}
_SOURCES = {
    "fmow": "fMoW-Sentinel (Cong et al., 2022)",
    "bigearthnet-v1": "BigEarthNet-S2 v1 (Sumbul et al., 2019)",
    "bigearthnet-v2": "BigEarthNet v2, reBEN (Clasen et al., 2024)",
    "eurosat": "EuroSAT, multispectral (Helber et al., 2019)",
    "folder": "GeoTIFFs of {}",
    "scenes": "chips cut from scenes of {}",
}
_LABEL = "| `label` or `labels` | class number, or several |\n"
_TEMPLATE = """---
{metadata}
---

# {name}

{source}, as Parquet shards made by `spectralgpt prepare`: {splits}.

{classes}```python
from datasets import load_dataset
import numpy as np

row = load_dataset("parquet", data_files="data/{split}-*.parquet", streaming=True)["train"].take(1)
row = next(iter(row))
pixels = np.frombuffer(row["pixels"], "<u2").reshape(row["shape"])
```

or, with decoded pixels, `spectralgpt_hf.data.load_shards(FOLDER, "{split}")`.

| column | content |
|---|---|
| `id` | name of the sample |
| `pixels` | little-endian uint16 (bands, height, width); 0 in all bands where there is no data |
| `shape` | bands, height, width |
| `bands` | names of the bands, in order |
| `offset` | digital number = stored + offset, for each band; null where the source states none |
| `crs`, `transform` | reference system (EPSG or WKT) and affine transform of the pixels |
| `date` | date of the acquisition, ISO 8601 |
{label}
Values are rounded to whole numbers, and clipped to 0 ... 65535. {unreadable} files could not be read, and {left_out}
samples were left out because they hold too little data: `report.json` lists both.

Statistics of the stored values of `{split}`; `statistics.json` holds those of all splits:

| band | {header} |
|{rule}
{table}
{attribution}"""
_ATTRIBUTION = "\nContains modified Copernicus Sentinel data.\n"
