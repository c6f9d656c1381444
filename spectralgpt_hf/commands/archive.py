"""Archives of thousands of scenes on Ray Data, from one machine to a cluster: embeddings or maps, and their catalogue.

On a cluster, the checkpoint, local sources and the output must be on storage that all machines share. Repeat the
command to resume: scenes whose result carries the fingerprint of the same checkpoint, options and source are finished.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hub.embedding_cards import write_embedding_card
from ..inference.archive_run import Job, SceneWorker, identify, plan, run_on_ray, split_finished, write_summary
from ..inference.archive_sources import check_stems, find_sources
from ..inference.mosaics import write_mosaic
from ..inference.stac_items import item_path, write_collection
from ..modeling.configuration_spectralgpt import SpectralGPTConfig


# Readers of whole folders of tables (pyarrow, geopandas) pass over names that begin with `_`.
SUMMARY, COLLECTION, MOSAIC = "_summary.parquet", "collection.json", "mosaic.tif"


def run_archive(
    kind: str,
    checkpoint: str,
    sources: Any,
    output: Path,
    *,
    suffix: str = ".tif",
    revision: str = "main",
    address: str | None = None,
    workers: int = 2,
    gpus: float = 0,
    device: str | None = None,
    weights_dtype: str = "float32",
    processor: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    grid: str | None = None,
    resolution: float | None = None,
    overwrite: bool = False,
    worker: type[SceneWorker] = SceneWorker,
) -> list[dict[str, Any]]:
    """Embed or map an archive, and write `_summary.parquet`, a STAC `collection.json` and, if wanted, a mosaic.

    Args:
        kind: "embed" or "predict".
        checkpoint: As in `load_model`, on storage that all machines share.
        sources: As in `find_sources`.
        output: Folder of the results.
        suffix: Of the results: ".tif", or ".parquet" for tables of embeddings.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        address: Of a running Ray cluster, or "auto"; by default Ray is started on this machine.
        workers: Number of processes, each with a model.
        gpus: Per worker; a fraction shares one.
        device, weights_dtype: As in `load_model`.
        processor: Options of the processor in place of what it was saved with.
        options: Of `embed_scene` or `predict_scene`.
        grid: Coordinate reference system of a mosaic, `mosaic.tif`, of all results.
        resolution: Side of its cells, in its units.
        overwrite: Whether files that are not results of an archive may be replaced.
        worker: Class of the workers.

    Returns:
        The rows of the summary.

    Raises:
        FileNotFoundError, ValueError, OSError: If no scene is found, two have one name, the checkpoint cannot be used,
            or a result cannot be written. What fails at one scene is in the summary.
    """
    chosen = dict(options or {})
    if (grid is None) != (resolution is None):
        raise ValueError("`grid` and `resolution`: expected both or neither.")
    if grid is not None:
        if suffix != ".tif":
            raise ValueError(f"`grid`: expected maps (.tif), which can be blended, not tables ({suffix}).")
        if kind == "predict":
            chosen["layers"] = [*dict.fromkeys([*chosen.get("layers", ()), "probabilities"])]
    checkpoint, revision, identity = identify(checkpoint, revision)
    config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)
    if kind == "predict" and "SpectralGPTForChangeDetection" in (config.architectures or ()):
        raise ValueError(f"{checkpoint}: expected a model of single scenes, found one that compares two dates.")
    found = find_sources(sources)
    check_stems(found)
    output = output.absolute()
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
    results, rows = split_finished(plan(found, output, suffix), job)
    print(f"{len(found)} scenes, {len(results)} of them finished")
    if rows:
        results += _with_ray(rows, job, address, workers, gpus, worker)
    write_summary(output / SUMMARY, results)
    done = sorted(result["destination"] for result in results if result["status"] != "failed")
    if done:
        _catalogue(output, done, job, config)
    if done and grid is not None and resolution is not None:
        maps = [name.removesuffix(".tif") + "_probabilities.tif" if kind == "predict" else name for name in done]
        print(write_mosaic(maps, output / MOSAIC, grid, resolution, overwrite=True))
    _report(results, output)
    return results


def _with_ray(
    rows: Sequence[dict[str, str]], job: Job, address: str | None, workers: int, gpus: float, worker: type[SceneWorker]
) -> list[dict[str, Any]]:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Archives run on Ray: `pip install spectralgpt-hf[ray]`.") from error

    started_here = not ray.is_initialized()
    if started_here:
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
    """Write the STAC collection over finished results and, of tables, the card of the data set that they are."""
    paths = [item_path(Path(name)) for name in done]
    items = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}
    fields: dict[str, Any] = {}
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
            write_embedding_card(output, Path(job.checkpoint).name, config.hidden_size, dtype)
    description = f"{title}, {len(items)} Sentinel-2 scenes, by SpectralGPT."
    write_collection(output / COLLECTION, items, title=title, description=description, fields=fields)


def _report(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    counts = Counter(str(result["status"]) for result in results)
    for result in results:
        if result["status"] == "failed":
            print(f"failed: {result['source']}: {result['reason']}")
    area = sum(result["km2"] for result in results if result["status"] == "done")
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    print(f"{', '.join(parts)}; {area:,.0f} km2 now: {output / SUMMARY}")
