"""The dataset card of a folder of shards: what the Hub and its readers need to know."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData


def render_card(
    name: str,
    dataset: str,
    rows: Mapping[str, int],
    statistics: Mapping[str, Mapping[str, Any]],
    report: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    license: str | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        name: Title.
        dataset: What was prepared, as `prepare_shards` calls it.
        rows: Number of rows of each split.
        statistics: Of each split, as in `statistics.json`.
        report: As in `report.json`.
        class_names: Names of the classes, if rows have labels.
        license: As the Hub calls it.
    """
    total = sum(rows.values())
    metadata = DatasetCardData(
        pretty_name=name,
        license=license,
        tags=["remote-sensing", "earth-observation", "sentinel-2", "multispectral", "spectralgpt"],
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
        source=_SOURCES[dataset],
        splits=", ".join(f"{count:,} in `{split}`" for split, count in rows.items()),
        classes=f"Classes: {', '.join(class_names)}.\n\n" if class_names else "",
        unreadable=len(report["unreadable"]),
        left_out=len(report["left_out"]),
        split=next(iter(statistics)),
        header=" | ".join(_SHOWN.values()),
        rule="---|" * (len(_SHOWN) + 1),
        table="\n".join(lines),
        label=_LABEL if class_names else "",
    )


_SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (float("inf"), "10M<n<100M"),
)
_SHOWN = {"minimum": "minimum", "percentile_1": "1 %", "mean": "mean", "std": "std", "percentile_99": "99 %"}
_SHOWN |= {"maximum": "maximum"}
_SOURCES = {
    "fmow": "fMoW-Sentinel (Cong et al., 2022)",
    "bigearthnet-v1": "BigEarthNet-S2 v1 (Sumbul et al., 2019)",
    "bigearthnet-v2": "BigEarthNet v2, reBEN (Clasen et al., 2024)",
    "eurosat": "EuroSAT, multispectral (Helber et al., 2019)",
    "folder": "GeoTIFFs of Sentinel-2",
    "scenes": "chips cut from Sentinel-2 scenes",
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
| `date` | of the acquisition, ISO 8601 |
{label}
Fractions, as of bands brought to 10 m, are rounded; values outside 0 ... 65535 are clipped. {unreadable} files could
not be read, and {left_out} samples were left out for lack of data: `report.json` names them.

Stored values of `{split}` (`statistics.json` has all, exact from histograms):

| band | {header} |
|{rule}
{table}

Contains modified Copernicus Sentinel data.
"""
