"""The `spectralgpt` command: a thin list of what the package does. Each command calls one function and prints."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .conversion import convert_checkpoint, restore_checkpoint, verify_conversion
from .conversion.convert import RECORD
from .conversion.verification import TOLERANCE
from .hub import describe_checkpoint, publish


class Commands(TyperGroup):
    """Prints what was wrong with the input as a message, not as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"spectralgpt: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, help="SpectralGPT for Sentinel-2."
)


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Classification = Annotated[str | None, typer.Option(help="Checkpoint for the tab Classify.")]
Segmentation = Annotated[str | None, typer.Option(help="Checkpoint for the tab Segment.")]
Change = Annotated[str | None, typer.Option(help="Checkpoint for the tab Change.")]


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="Original .pth or .safetensors file, or its URL (#sha256=... is checked).")
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write; with --to-original, the file.")],
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; as stored by default.")] = None,
    num_attention_heads: Annotated[int | None, typer.Option(help="Where no preset has the encoder's width.")] = None,
    decoder_num_attention_heads: Annotated[int | None, typer.Option(help="Where no preset has the decoder's.")] = None,
    bands: Annotated[
        str | None, typer.Option(help="Names in order, with commas, where they are not the usual.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare outputs with the original's mathematics.")] = False,
    to_original: Annotated[
        bool, typer.Option("--to-original", help="From our folder back to the original's file.")
    ] = False,
) -> None:
    """Convert a checkpoint of the original code into a folder for from_pretrained, or back."""
    if to_original:
        typer.echo(restore_checkpoint(source, output))
        return
    overrides = {
        "num_attention_heads": num_attention_heads,
        "decoder_num_attention_heads": decoder_num_attention_heads,
        "bands": bands and bands.split(","),
    }
    convert_checkpoint(source, output, dtype=dtype, **{name: value for name, value in overrides.items() if value})
    record = json.loads((output / RECORD).read_text())
    for tensor in record["tensors"]:
        typer.echo(f"{tensor['original']} -> {tensor['ours']} {tuple(tensor['shape'])}")
    typer.echo(
        f"{len(record['tensors'])} tensors of {record['architecture']}, {len(record['left_over'])} left over: {output}"
    )
    if verify:
        difference = verify_conversion(source, output)
        typer.echo(f"Largest difference from the original's mathematics: {difference:.1e} of the largest value")
        if not difference < TOLERANCE:
            raise ValueError(f"Expected a difference below {TOLERANCE}: do not use {output}.")


@app.command()
def info(
    checkpoint: Annotated[str, typer.Argument(help="Folder, or name on the Hub.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the Hub.")] = "main",
) -> None:
    """Show what a checkpoint is, and what it costs."""
    described = describe_checkpoint(checkpoint, revision)
    config, processor = described.config, described.processor
    rows = {
        "architecture": f"{described.architecture}, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.num_attention_heads} heads",
        "image": f"{config.image_size} x {config.image_size} px, tokens of {config.spectral_patch_size} bands x "
        f"{config.patch_size} x {config.patch_size} px",
        "parameters": f"{described.num_parameters:,} ({described.dtype})",
        "bands": " ".join(processor.bands),
        "normalisation": f"{processor.normalization}, limits per {processor.normalization_scope}",
        "revision": described.revision or "local folder",
        "forward pass": f"{described.flops / 1e9:,.1f} GFLOP an image",
        "memory, weights": f"{described.weight_bytes / 2**20:,.0f} MiB",
        "memory, training": f"{described.training_bytes / 2**20:,.0f} MiB (float32, AdamW) + "
        f"{described.activation_bytes / 2**20:,.0f} MiB an image",
    }
    for name, value in rows.items():
        typer.echo(f"{name:17} {value}")


@app.command("publish")
def publish_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Checkpoint: what save_pretrained wrote, and a README.md.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name on the Hub; made if there is none.")],
    private: Private = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default, made if there is none.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Check a checkpoint, upload it as one commit, and load it back. Repeat it to resume. Takes HF_TOKEN."""
    url = publish(
        folder,
        repo_id,
        private=private,
        create_pr=create_pr,
        revision=revision,
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


exports = typer.Typer(no_args_is_help=True, help="Write a checkpoint in another format.")
app.add_typer(exports, name="export")


@exports.command("onnx")
def export_as_onnx(
    checkpoint: Annotated[str, typer.Argument(help="Folder, or name on the Hub.")],
    output: Annotated[Path, typer.Argument(help=".onnx file to write.")],
    image_size: Annotated[int | None, typer.Option(help="Height and width in pixels; the checkpoint's.")] = None,
) -> None:
    """Export a classifier, or else the encoder, for onnxruntime, and compare it with PyTorch."""
    from .conversion.export import export_onnx

    written = export_onnx(checkpoint, output, image_size=image_size)
    size = f"{written.image_size} x {written.image_size} px"
    typer.echo(f"{written.architecture}, {size}, batches of any size: {output}")
    typer.echo(f"Largest difference from PyTorch: {written.difference:.1e}")


@app.command()
def demo(
    checkpoint: Annotated[str, typer.Option(help="Pretrained: folder, or name on the Hub; the embedded one.")] = "",
    classification: Classification = None,
    segmentation: Segmentation = None,
    change: Change = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="7860, or the next that is free.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a page that rebuilds, maps and compares images, for several people at once."""
    from .assets import CHECKPOINT
    from .serving.app import run

    run(
        checkpoint or CHECKPOINT,
        classification=classification,
        segmentation=segmentation,
        change=change,
        host=host,
        port=port,
        in_browser=open_browser,
        report=typer.echo,
    )


@app.command("publish-space")
def publish_demo(
    checkpoint: Annotated[str, typer.Argument(help="Pretrained: folder, or name on the Hub.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name of the Space; made if there is none.")],
    classification: Classification = None,
    segmentation: Segmentation = None,
    change: Change = None,
    private: Private = False,
    dry_run: DryRun = False,
) -> None:
    """Upload the page of `demo` as a Gradio Space, as one commit. Takes HF_TOKEN."""
    from .hub.space import publish_space

    url = publish_space(
        repo_id,
        checkpoint,
        classification=classification,
        segmentation=segmentation,
        change=change,
        private=private,
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


Area = Annotated[str | None, typer.Option(help="left,bottom,right,top; or a GeoJSON file.")]
AreaCrs = Annotated[str | None, typer.Option(help="Of the area, such as EPSG:4326; that of the scene for bounds.")]
Bands = Annotated[str | None, typer.Option(help="Names in order, with commas, where the files do not say them.")]
Offset = Annotated[float | None, typer.Option(help="Added to the digital numbers, in place of what is stated.")]
Mask = Annotated[str | None, typer.Option(help="SCL, or a file whose zeros are left out.")]
PerTile = Annotated[bool, typer.Option("--per-tile", help="Normalise every tile by itself, which makes seams.")]
TileSize = Annotated[int | None, typer.Option(help="Pixels on a side; the model's by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Tiles that go to the device at once.")]
Workers = Annotated[int, typer.Option(help="Threads that read and prepare.")]
MemoryLimit = Annotated[int, typer.Option(help="MiB for pixels, results and GDAL's cache.")]
MissingBands = Annotated[str | None, typer.Option(help="error, nearest, mean or mask; the checkpoint's by default.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ...; the best there is by default.")]
Dtype = Annotated[str, typer.Option(help="Of the model: float32, bfloat16 or float16.")]


@app.command()
def predict(
    checkpoint: Annotated[str, typer.Argument(help="Folder, or name on the Hub, of a fine-tuned model.")],
    source: Annotated[str, typer.Argument(help="GeoTIFF, SAFE, folder of bands, STAC item, URL.")],
    destination: Annotated[Path, typer.Argument(help=".tif to write.")],
    after: Annotated[str | None, typer.Option(help="Second date, for change detection.")] = None,
    confidence: Annotated[bool, typer.Option("--confidence", help="Write DESTINATION_confidence.tif too.")] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Write DESTINATION_entropy.tif too.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write them, one band a class.")] = False,
    area: Area = None,
    area_crs: AreaCrs = None,
    bands: Bands = None,
    offset: Offset = None,
    mask: Mask = None,
    mask_after: Mask = None,
    missing_bands: MissingBands = None,
    per_tile: PerTile = False,
    tile_size: TileSize = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a tile; 0.5, for classification 0.")] = None,
    batch_size: BatchSize = None,
    workers: Workers = 2,
    memory_limit: MemoryLimit = 1024,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Map classes or change of a scene of any size. Repeat it to resume."""
    from .inference import predict_scene
    from .inference.checkpoints import load_model

    model, processor = load_model(checkpoint, device, dtype, missing_bands=missing_bands)
    chosen = {"confidence": confidence, "entropy": entropy, "probabilities": probabilities}
    written = predict_scene(
        model,
        processor,
        source,
        destination,
        after=after,
        layers=[layer for layer, wanted in chosen.items() if wanted],
        area=_area(area),
        area_crs=area_crs,
        bands=bands and bands.split(","),
        offset=offset,
        mask=mask,
        mask_after=mask_after,
        normalization="tile" if per_tile else "scene",
        tile_size=tile_size,
        overlap=overlap,
        batch_size=batch_size,
        workers=workers,
        memory_limit=memory_limit * 2**20,
    )
    typer.echo(written)


@app.command()
def embed(
    checkpoint: Annotated[str, typer.Argument(help="Folder, or name on the Hub.")],
    source: Annotated[str, typer.Argument(help="GeoTIFF, SAFE, folder of bands, STAC item, URL.")],
    destination: Annotated[Path, typer.Argument(help=".tif for a map of features, .parquet for a vector a chip.")],
    stride: Annotated[int | None, typer.Option(help="Pixels between places; a token, for chips their size.")] = None,
    area: Area = None,
    area_crs: AreaCrs = None,
    bands: Bands = None,
    offset: Offset = None,
    mask: Mask = None,
    missing_bands: MissingBands = None,
    per_tile: PerTile = False,
    tile_size: TileSize = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that the next one covers too.")] = 0.5,
    batch_size: BatchSize = None,
    workers: Workers = 2,
    memory_limit: MemoryLimit = 1024,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Embed a scene of any size. Repeat it to resume."""
    from .inference import embed_scene
    from .inference.checkpoints import load_encoder

    model, processor = load_encoder(checkpoint, device, dtype, missing_bands=missing_bands)
    written = embed_scene(
        model,
        processor,
        source,
        destination,
        stride=stride,
        area=_area(area),
        area_crs=area_crs,
        bands=bands and bands.split(","),
        offset=offset,
        mask=mask,
        normalization="tile" if per_tile else "scene",
        tile_size=tile_size,
        overlap=overlap,
        batch_size=batch_size,
        workers=workers,
        memory_limit=memory_limit * 2**20,
    )
    typer.echo(written)


@app.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
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
    names: Annotated[str | None, typer.Option(help="What files without band names hold, in order.")] = None,
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
    from .data.shards.prepare import prepare_shards, push_shards

    reader_options = {"num_classes": num_classes, "partition": partition}
    prepare_shards(
        sources,
        output,
        dataset,
        splits=splits.split(","),
        bands=bands.split(",") if bands else None,
        names=names.split(",") if names else None,
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


def _area(text: str | None) -> Any:
    """Return bounds as numbers; the name of a file as it is."""
    try:
        return text and [float(number) for number in text.split(",")]
    except ValueError:
        return text
