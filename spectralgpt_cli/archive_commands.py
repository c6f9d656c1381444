"""Commands for archives of scenes: archive embed, archive predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .app import App, app, names
from .options import Checkpoint, expand_options
from .scene_commands import Confidence, ReadingOptions, StoredDtype, Stride


archive = App(
    no_args_is_help=True,
    help="Embed or map archives of scenes on Ray, from one machine to a cluster. Needs the extra `ray`.",
)
app.add_typer(archive, name="archive")

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        help="Scenes: files, SAFE products, folders of scenes, patterns, .txt lists, STAC items or item collections "
        "(.json), URLs, s3:// or /vsis3/ paths."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions(ReadingOptions):
    """Options of both commands."""

    output: Annotated[Path, typer.Option(help="Folder of the results.")]
    grid: Annotated[
        str | None,
        typer.Option(help="Coordinate reference system of a mosaic of all results, such as EPSG:3857. Default: none."),
    ] = None
    resolution: Annotated[
        float | None, typer.Option(help="Size of the mosaic's cells, in units of --grid. Required with --grid.")
    ] = None
    address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster, or `auto`. Default: start Ray on this machine."),
    ] = None
    workers: Annotated[int, typer.Option(help="Number of worker processes, each with its own model.")] = 2
    gpus: Annotated[float, typer.Option(help="Number of GPUs per worker. With 0.5, two workers share one.")] = 0
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files that no archive command wrote. Results of other checkpoints or options are always "
            "replaced.",
        ),
    ] = False

    def run(self, kind: str, checkpoint: str, sources: list[str] | None, suffix: str, **options: object) -> None:
        """Run an archive with further arguments of `embed_scene` or `predict_scene`."""
        scenes = [*(sources or []), *self.search()]
        if not scenes:
            raise ValueError("Expected SOURCES, or `stac` to search for them.")
        if self.region is not None:
            options |= {"area": self.region, "area_crs": "EPSG:4326"}
        from spectralgpt_hf.commands.archive import run_archive

        results = run_archive(
            kind,
            checkpoint,
            scenes,
            self.output,
            suffix=suffix,
            revision=self.revision,
            address=self.address,
            workers=self.workers,
            gpus=self.gpus,
            weights_dtype=self.weights_dtype,
            processor={"missing_bands": self.missing_bands},
            options={
                **options,
                "band_names": names(self.band_names),
                "mask": self.mask,
                "tile_size": self.tile_size,
                "memory_limit": self.memory_limit * 2**20,
            },
            grid=self.grid,
            resolution=self.resolution,
            overwrite=self.overwrite,
            report=typer.echo,
        )
        raise typer.Exit(any(result["status"] == "failed" for result in results))


@archive.command()
@expand_options
def embed(
    checkpoint: Checkpoint,
    sources: Sources = None,
    *,
    maps: Annotated[
        bool, typer.Option("--maps", help="Write maps of features (.tif). Default: tables of one vector per chip.")
    ] = False,
    stride: Stride = None,
    dtype: StoredDtype = None,
    options: ArchiveOptions,
) -> None:
    """Compute embeddings of many scenes. Repeat the command to resume it; finished scenes are skipped."""
    options.run("embed", checkpoint, sources, ".tif" if maps else ".parquet", stride=stride, dtype=dtype)


@archive.command()
@expand_options
def predict(
    checkpoint: Checkpoint,
    sources: Sources = None,
    *,
    confidence: Confidence = False,
    options: ArchiveOptions,
) -> None:
    """Map classes over many scenes. Repeat the command to resume it; finished scenes are skipped."""
    options.run("predict", checkpoint, sources, ".tif", layers=["confidence"] if confidence else [])
