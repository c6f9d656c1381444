"""Commands for whole scenes: predict, embed."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app


Area = Annotated[str | None, typer.Option(help="left,bottom,right,top; or a GeoJSON file.")]
AreaCrs = Annotated[str | None, typer.Option(help="Of the area, such as EPSG:4326; that of the scene for bounds.")]
BandNames = Annotated[str | None, typer.Option(help="Names in order, with commas, where the files do not say them.")]
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
    band_names: BandNames = None,
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
    from spectralgpt_hf.inference import predict_scene
    from spectralgpt_hf.inference.checkpoints import load_model

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
        band_names=band_names and band_names.split(","),
        offset=offset,
        mask=mask,
        mask_after=mask_after,
        statistics_scope="tile" if per_tile else "scene",
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
    band_names: BandNames = None,
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
    from spectralgpt_hf.inference import embed_scene
    from spectralgpt_hf.inference.checkpoints import load_encoder

    model, processor = load_encoder(checkpoint, device, dtype, missing_bands=missing_bands)
    written = embed_scene(
        model,
        processor,
        source,
        destination,
        stride=stride,
        area=_area(area),
        area_crs=area_crs,
        band_names=band_names and band_names.split(","),
        offset=offset,
        mask=mask,
        statistics_scope="tile" if per_tile else "scene",
        tile_size=tile_size,
        overlap=overlap,
        batch_size=batch_size,
        workers=workers,
        memory_limit=memory_limit * 2**20,
    )
    typer.echo(written)


def _area(text: str | None) -> str | list[float] | None:
    """Return bounds as numbers; the name of a file as it is."""
    try:
        return text and [float(number) for number in text.split(",")]
    except ValueError:
        return text
