"""Embed or map thousands of scenes on Ray Data, on one machine or a cluster, and write a catalogue of the results.

On a cluster, the checkpoint, local sources and the output must be on storage that all machines share. Repeat the
command to resume. A scene is skipped if its result has the fingerprint of the same checkpoint, options and source.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..hub.embedding_cards import write_embedding_card
from ..inference.archive_run import (
    Job,
    SceneResult,
    SceneRow,
    SceneWorker,
    identify,
    plan,
    refuse_other_checkpoints,
    remove_outdated,
    run_on_ray,
    split_finished,
    write_summary,
)
from ..inference.archive_sources import check_stems, find_sources
from ..inference.mosaics import check_grid, write_mosaic
from ..inference.stac_items import item_path, write_collection
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.raster_files import Source


# Readers of whole folders of tables (pyarrow, geopandas) skip names that begin with `_`.
SUMMARY, COLLECTION, MOSAIC = "_summary.parquet", "collection.json", "mosaic.tif"


def run_archive(
    kind: str,
    checkpoint: str,
    sources: str | os.PathLike[str] | Source | Sequence[object],
    output: Path,
    *,
    suffix: str = ".tif",
    revision: str = "main",
    address: str | None = None,
    workers: int = 2,
    gpus: float = 0,
    device: str | None = None,
    weights_dtype: str = "float32",
    processor: Mapping[str, object] | None = None,
    options: Mapping[str, Any] | None = None,
    grid: str | None = None,
    resolution: float | None = None,
    overwrite: bool = False,
    worker: type[SceneWorker] = SceneWorker,
    report: Callable[[str], object] = lambda line: None,
) -> list[SceneResult]:
    """Embed or map an archive, and write `_summary.parquet`, a STAC `collection.json` and, if wanted, a mosaic.

    Args:
        kind: "embed" or "predict".
        checkpoint: As in `load_model`, on storage that all machines share.
        sources: As in `find_sources`. It passes over what lies in `output`.
        output: Folder of the results.
        suffix: Suffix of the results: ".tif", or ".parquet" for tables of embeddings.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        address: Address of a running Ray cluster, or "auto". By default Ray is started on this machine.
        workers: Number of processes, each with its own model.
        gpus: Number of GPUs per worker; several workers share one if it is a fraction.
        device, weights_dtype: As in `load_model`.
        processor: Attributes of the processor that replace the saved ones.
        options: Arguments of `embed_scene` or `predict_scene`.
        grid: Coordinate reference system of a mosaic of all results, `mosaic.tif`, or None for no mosaic.
        resolution: Size of the mosaic's cells, in units of `grid`.
        overwrite: Whether files that are not results of an archive may be replaced.
        worker: Class of the workers.
        report: Called with each line on what is done.

    Returns:
        The rows of the summary.

    Raises:
        FileNotFoundError, ValueError, OSError: If no scene is found, two have the same name, the checkpoint cannot be
            used, results of another checkpoint would stay in `output`, or the summary or the catalogue cannot be
            written. Errors of single scenes are in the summary.
    """
    chosen = dict(options or {})
    if (grid is None) != (resolution is None):
        raise ValueError("`grid` and `resolution`: expected both or neither.")
    if grid is not None and resolution is not None:
        check_grid(grid, resolution)
        if suffix != ".tif":
            raise ValueError(f"`grid`: expected maps (.tif), which can be blended, not tables ({suffix}).")
        if kind == "predict":
            chosen["layers"] = [*dict.fromkeys([*chosen.get("layers", ()), "probabilities"])]
    checkpoint, revision, identity = identify(checkpoint, revision)
    config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)
    if kind == "predict" and "SpectralGPTForChangeDetection" in (config.architectures or ()):
        raise ValueError(
            f"{checkpoint}: expected a model of single scenes, found one that compares two dates: map its pairs one by "
            "one with `predict_scene` (`spectralgpt predict --after`)."
        )
    output = output.absolute()
    found = find_sources(sources, output)
    check_stems(found)
    output.mkdir(parents=True, exist_ok=True)
    job = Job(
        kind,
        checkpoint,
        revision,
        identity,
        device or ("cuda" if gpus else "cpu"),
        weights_dtype,
        dict(processor or {}),
        chosen,
        overwrite,
    )
    planned = plan(found, output, suffix)
    refuse_other_checkpoints(output, suffix, planned, job)
    results, rows = split_finished(planned, job)
    report(f"{len(found)} scenes, {len(results)} of them finished")
    if rows:
        results += _with_ray(rows, job, address, workers, gpus, worker)
        remove_outdated(results, job)
    write_summary(output / SUMMARY, results)
    done = sorted(result["destination"] for result in results if result["status"] != "failed")
    if done:
        _catalogue(output, done, job, config)
    if done and grid is not None and resolution is not None:
        maps = [name.removesuffix(".tif") + "_probabilities.tif" if kind == "predict" else name for name in done]
        report(str(write_mosaic(maps, output / MOSAIC, grid, resolution, overwrite=True)))
    for line in _summarise(results, output):
        report(line)
    return results


def _with_ray(
    rows: Sequence[SceneRow], job: Job, address: str | None, workers: int, gpus: float, worker: type[SceneWorker]
) -> list[SceneResult]:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Archives run on Ray: `pip install spectralgpt-hf[ray]`.") from error

    started_here = not ray.is_initialized()
    if started_here:
        if address is None and gpus > (there := torch.cuda.device_count()):
            raise ValueError(f"`gpus`: expected at most the {there} of this machine per worker, got {gpus:g}.")
        ray.init(
            address=address,
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    try:
        return run_on_ray(rows, job, workers, gpus, worker)
    finally:
        if started_here:
            ray.shutdown()


def _catalogue(output: Path, done: Sequence[str], job: Job, config: SpectralGPTConfig) -> None:
    """Write the STAC collection of the finished results and, for tables, the card of the data set."""
    paths = [item_path(Path(name)) for name in done]
    items = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}
    fields: dict[str, object] = {}
    title = f"{'Embeddings' if job.kind == 'embed' else 'Maps'} of {Path(job.checkpoint).name}"
    if job.kind == "embed":
        tables = done[0].endswith(".parquet")
        dtype = job.options.get("dtype") or ("float32" if tables else "float16")
        fields = {
            "emb:type": "chip" if tables else "pixel",
            "emb:dimensions": config.hidden_size,
            "data_type": dtype,
        }
        if tables:
            write_embedding_card(output, Path(job.checkpoint).name, config.expected_sensor, config.hidden_size, dtype)
    description = f"{title}, {len(items)} scenes of {config.expected_sensor}, by SpectralGPT."
    write_collection(output / COLLECTION, items, title=title, description=description, fields=fields)


def _summarise(results: Sequence[SceneResult], output: Path) -> list[str]:
    """Return a line for each scene that failed, and one for all."""
    counts = Counter(str(result["status"]) for result in results)
    failed = [f"failed: {result['source']}: {result['reason']}" for result in results if result["status"] == "failed"]
    area = sum(result["km2"] for result in results if result["status"] == "done")
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    return [*failed, f"{', '.join(parts)}; {area:,.0f} km2 now: {output / SUMMARY}"]
