"""Commands for training data: prepare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import Private


@app.command()
def prepare(
    sources: Annotated[list[Path], typer.Argument(help="Root of a dataset, folders of GeoTIFFs, or scenes.")],
    output: Annotated[Path, typer.Argument(help="Folder of the shards.")],
    dataset: Annotated[
        str, typer.Option(help="fmow, bigearthnet-v1, bigearthnet-v2, eurosat, folder or scenes.")
    ] = "scenes",
    splits: Annotated[
        str, typer.Option(help="Of a dataset, with commas; all becomes train.")
    ] = "train,validation,test",
    bands: Annotated[str | None, typer.Option(help="Bands to keep, in order, with commas; all by default.")] = None,
    band_names: Annotated[str | None, typer.Option(help="What files without band names hold, in order.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of chips, in pixels; 192 for scenes by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Distance between chips; their size by default.")] = None,
    min_valid: Annotated[
        float | None, typer.Option(help="Smallest share of pixels with data; 0.5 for chips by default.")
    ] = None,
    scale: Annotated[float, typer.Option(help="10000 for files that hold reflectances.")] = 1.0,
    validation_share: Annotated[float, typer.Option(help="Part of the files or scenes to hold out.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    num_classes: Annotated[int | None, typer.Option(help="Of BigEarthNet v1: 19 or 43.")] = None,
    partition: Annotated[str | None, typer.Option(help="Of EuroSAT: spatial or random.")] = None,
    rows_per_shard: Annotated[int, typer.Option(help="Samples of a shard.")] = 512,
    compression: Annotated[str, typer.Option(help="lz4, zstd (smaller, slower to read) or none.")] = "lz4",
    license: Annotated[str | None, typer.Option(help="Of the data, as the Hub calls it.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="namespace/name on the Hub. Takes HF_TOKEN.")] = None,
    private: Private = False,
) -> None:
    """Turn datasets, folders or scenes into Parquet shards. Repeat it to resume."""
    from spectralgpt_hf.data.shards.prepare import prepare_shards, push_shards

    reader_options = {"num_classes": num_classes, "partition": partition}
    prepare_shards(
        sources,
        output,
        dataset,
        splits=splits.split(","),
        bands=bands.split(",") if bands else None,
        band_names=band_names.split(",") if band_names else None,
        size=size,
        stride=stride,
        min_valid=min_valid,
        scale=scale,
        validation_share=validation_share,
        seed=seed,
        rows_per_shard=rows_per_shard,
        compression=compression,  # type: ignore[arg-type]
        license=license,
        num_workers=num_workers,
        **{name: value for name, value in reader_options.items() if value is not None},
    )
    report = json.loads((output / "report.json").read_text())
    for split, rows in report["rows"].items():
        typer.echo(f"{rows} samples in {split}")
    typer.echo(f"{len(report['unreadable'])} files unreadable, {len(report['left_out'])} samples left out: {output}")
    if push_to_hub:
        typer.echo(push_shards(output, push_to_hub, private=private))
