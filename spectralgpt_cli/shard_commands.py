"""Commands for training data: prepare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .app import app, names
from .options import Force, Private, Yes, confirmation


@app.command()
def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Root folder of one dataset; folders of images; or scenes, and folders that hold scenes."),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write the shards to.")],
    dataset: Annotated[
        str,
        typer.Option(
            help="Kind of the sources: fmow, bigearthnet-v1, bigearthnet-v2 or eurosat; folder, where each image is "
            "a sample; or scenes, which are cut into chips. An image is a GeoTIFF, a SAFE product, a folder of one "
            "file per band (as in SSL4EO-S12, SeCo and Major TOM) or, with --band-names, an .npy array."
        ),
    ] = "scenes",
    splits: Annotated[
        str, typer.Option(help="Splits of a dataset to write, with commas. `all` writes every sample as train.")
    ] = "train,validation,test",
    bands: Annotated[
        str | None, typer.Option(help="Bands to keep, in order, with commas. Default: all, in the order of the files.")
    ] = None,
    band_names: Annotated[
        str | None,
        typer.Option(help="Names of the files' bands, in order, with commas. Default: the names that the files state."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the chips, in pixels. Default: 192 for scenes; whole files for folders."
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Distance between neighbouring chips, in pixels. Default: the size of the chips.")
    ] = None,
    min_valid: Annotated[
        float | None,
        typer.Option(
            help="Smallest share of pixels with data that a sample needs. Default: 0.5 for chips, 0 otherwise."
        ),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(help="Factor from stored values to digital numbers: 10000 for files that hold reflectance."),
    ] = 1.0,
    validation_share: Annotated[
        float, typer.Option(help="Share of the files or scenes, 0 to 1, that becomes the split `validation`.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the random choice of validation files.")] = 0,
    num_classes: Annotated[
        int | None, typer.Option(help="Number of classes of the labels of BigEarthNet v1: 19 or 43. Default: 19.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="How EuroSAT is split: spatial or random. Default: spatial.")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(help="Number of samples per shard.")] = 512,
    compression: Annotated[
        str, typer.Option(help="Compression of the shards: lz4, zstd (smaller, slower to read) or none.")
    ] = "lz4",
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the data for the card, as an identifier of the Hub. Default: unknown."),
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Number of processes that read and write. Default: one per core.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Dataset repository (namespace/name) to upload to, with HF_TOKEN. Default: no upload."),
    ] = None,
    private: Private = False,
    force: Force = False,
    yes: Yes = False,
    sensor: Annotated[
        str, typer.Option(help="Sensor that took the images of folders and scenes, such as landsat-8.")
    ] = "sentinel-2",
) -> None:
    """Convert a dataset, folders of images, or scenes into Parquet shards. Repeat a command to resume it."""
    from spectralgpt_hf.data.shards.prepare import prepare_shards
    from spectralgpt_hf.hub.shard_upload import push_shards

    reader_options = {"num_classes": num_classes, "partition": partition}
    prepare_shards(
        sources,
        output,
        dataset,
        splits=splits.split(","),
        bands=names(bands),
        band_names=names(band_names),
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
        sensor=sensor,
        **{name: value for name, value in reader_options.items() if value is not None},
    )
    report = json.loads((output / "report.json").read_text())
    for split, rows in report["rows"].items():
        typer.echo(f"{rows} samples in {split}")
    typer.echo(f"{len(report['unreadable'])} files unreadable, {len(report['left_out'])} samples left out: {output}")
    for entry in report["unreadable"][:3]:
        typer.echo(f"{entry['file']} was not read: {entry['reason']}")
    if push_to_hub:
        url = push_shards(
            output, push_to_hub, private=private, force=force, confirm=confirmation(yes), report=typer.echo
        )
        typer.echo(url)
