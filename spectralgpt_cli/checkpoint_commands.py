"""Commands for a checkpoint: convert, info, export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .app import App, app, names
from .options import Checkpoint, Revision


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="File of the original code (.pth or .safetensors), or its URL, which may end with #sha256=... to be "
            "checked. With --to-original, a checkpoint: a folder, or a name on the Hub."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder to write, which must be new or empty. With --to-original, a new file.")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of the written weights: float32, float16 or bfloat16. Default: as in the source."),
    ] = None,
    num_attention_heads: Annotated[
        int | None,
        typer.Option(help="Number of the encoder's attention heads. Default: that of the preset of the same width."),
    ] = None,
    decoder_num_attention_heads: Annotated[
        int | None,
        typer.Option(help="Number of the decoder's attention heads. Default: that of the preset of the same width."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands that the weights expect, in order, with commas. Default: those of Sentinel-2 L2A."),
    ] = None,
    sensor: Annotated[
        str | None, typer.Option(help="Sensor of these bands, such as landsat-8. Default: sentinel-2.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the outputs with those of the original network afterwards."),
    ] = False,
    to_original: Annotated[
        bool, typer.Option("--to-original", help="Convert a checkpoint folder back into a file of the original code.")
    ] = False,
    revision: Revision = "main",
) -> None:
    """Convert a file of the original code into a folder for from_pretrained, or back."""
    from spectralgpt_hf.conversion import convert_checkpoint, restore_checkpoint, verify_conversion
    from spectralgpt_hf.conversion.convert import RECORD
    from spectralgpt_hf.conversion.verification import TOLERANCE

    if to_original:
        typer.echo(restore_checkpoint(source, output, revision=revision))
        return
    overrides = {
        "num_attention_heads": num_attention_heads,
        "decoder_num_attention_heads": decoder_num_attention_heads,
        "bands": names(bands),
        "sensor": sensor,
    }
    convert_checkpoint(source, output, dtype=dtype, **{name: value for name, value in overrides.items() if value})
    record = json.loads((output / RECORD).read_text())
    for tensor in record["tensors"]:
        typer.echo(f"{tensor['original']} -> {tensor['ours']} {tuple(tensor['shape'])}")
    for name in record["left_over"]:
        typer.echo(f"{name} -> left over")
    typer.echo(
        f"{len(record['tensors'])} tensors of {record['architecture']}, {len(record['left_over'])} left over: {output}"
    )
    if verify:
        difference = verify_conversion(source, output)
        typer.echo(f"Largest difference from the original network: {difference:.1e} of the largest value")
        if not difference < TOLERANCE:
            raise ValueError(f"Expected a difference below {TOLERANCE}: do not use {output}.")


@app.command()
def info(checkpoint: Checkpoint, revision: Revision = "main") -> None:
    """Show the network of a checkpoint, and the operations and memory that one image needs."""
    from spectralgpt_hf.hub import describe_checkpoint

    described = describe_checkpoint(checkpoint, revision)
    config, processor = described.config, described.processor
    rows = {
        "architecture": f"{described.architecture}, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.num_attention_heads} heads",
        "image": f"{config.image_size} x {config.image_size} px, tokens of {config.spectral_patch_size} bands x "
        f"{config.patch_size} x {config.patch_size} px",
        "parameters": f"{described.num_parameters:,} ({described.dtype})",
        "bands": " ".join(processor.bands),
        "normalisation": f"{processor.normalization}, limits per {processor.statistics_scope}",
        "revision": described.revision or "local folder",
        "forward pass": f"{described.flops / 1e9:,.1f} GFLOP per image",
        "memory, weights": f"{described.weight_bytes / 2**20:,.0f} MiB",
        "memory, training": f"{described.training_bytes / 2**20:,.0f} MiB (float32, AdamW) + "
        f"{described.activation_bytes / 2**20:,.0f} MiB per image",
    }
    for name, value in rows.items():
        typer.echo(f"{name:17} {value}")


exports = App(no_args_is_help=True, help="Write a checkpoint in another format.")
app.add_typer(exports, name="export")


@exports.command("onnx")
def export_as_onnx(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Argument(help="File to write, which ends with .onnx.")],
    image_size: Annotated[
        int | None, typer.Option(help="Height and width of the images, in pixels. Default: the checkpoint's.")
    ] = None,
    revision: Revision = "main",
) -> None:
    """Export a classifier, or the encoder of any other checkpoint, for onnxruntime, and compare it with PyTorch."""
    from spectralgpt_hf.conversion.export import export_onnx

    written = export_onnx(checkpoint, output, image_size=image_size, revision=revision)
    size = f"{written.image_size} x {written.image_size} px"
    typer.echo(f"{written.architecture}, {size}, batches of any size: {output}")
    typer.echo(f"Largest difference from PyTorch: {written.difference:.1e}")
