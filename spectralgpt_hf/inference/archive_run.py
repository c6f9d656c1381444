"""Embed or map thousands of scenes on Ray Data. Each worker loads the model once.

A scene that fails, or that ends the process of its worker, is tried again after all other scenes, `ATTEMPTS` times in
total. A temporary outage can end in the meantime, and a scene that kills its worker affects no other scene.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from ..assets import find_checkpoint
from ..files import atomic_path, digest, write_json
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.rasters import RasterReader, open_raster
from ..modeling.tiling import Box
from .archive_sources import ArchiveSource
from .checkpoints import load_encoder, load_model
from .embedding import embed_scene
from .map_styles import style_path
from .maps import ground_hectares
from .prediction import LAYERS, predict_scene
from .resuming import fingerprint
from .stac_items import describe_result, item_path


ATTEMPTS = 3
TAG = "fingerprint"
"""Tag of a finished file: hashes of the checkpoint, of the options, and of the state of the source."""

CHECKS = 16
"""Number of files whose fingerprints are read at the same time."""

RESOURCES = ("batch_size", "workers", "memory_limit")
"""Options that do not change a result."""

KILLED = "the worker was killed: it ran out of memory, or a library crashed at this scene"


class SceneRow(TypedDict):
    """A scene of an archive as a row for Ray: its name, its text (see `ArchiveSource`) and the file to write."""

    name: str
    text: str
    destination: str


class SceneResult(TypedDict):
    """A row of the summary.

    `status` is "done", "there already" or "failed", `reason` is that of a failure, and `km2` is the area of the scene.
    """

    source: str
    destination: str
    status: str
    reason: str
    attempts: int
    km2: float
    seconds: float


@dataclass(frozen=True)
class Job:
    """The work on every scene of an archive.

    Attributes:
        kind: "embed" or "predict".
        checkpoint: Folder that all machines can read, or name on the Hub.
        revision: Commit of a checkpoint on the Hub.
        identity: Digest of the checkpoint's content.
        device: As in `load_model`.
        weights_dtype: Type of the model's weights.
        processor: Attributes of the processor that replace the saved ones.
        options: Arguments of `embed_scene` or `predict_scene`.
        overwrite: Whether files that are not results of an archive may be replaced.
    """

    kind: str
    checkpoint: str
    revision: str
    identity: str
    device: str | None = None
    weights_dtype: str = "float32"
    processor: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False

    @cached_property
    def key(self) -> str:
        """Hashes of the checkpoint and of the options."""
        from .. import __version__  # not before the package is imported as a whole

        made_of = {name: getattr(self, name) for name in ("kind", "weights_dtype", "processor")}
        made_of["options"] = {name: value for name, value in self.options.items() if name not in RESOURCES}
        return f"{self.identity[:16]}-{fingerprint(version=__version__, **made_of)}"

    def mark(self, reader: RasterReader) -> str:
        """Return the fingerprint of a scene's result: `key`, and a hash of the size and time of its source."""
        return f"{self.key}-{fingerprint(sources=reader.identity())}"

    def open(self, source: ArchiveSource) -> RasterReader:
        """Open a scene with the options of the job."""
        return open_raster(source.open(), mask=self.options.get("mask"), band_names=self.options.get("band_names"))


def identify(checkpoint: str, revision: str = "main") -> tuple[str, str, str]:
    """Return the folder or name of a checkpoint, its commit, and a digest of its content.

    Raises:
        FileNotFoundError, OSError: If there is no such checkpoint.
    """
    checkpoint = find_checkpoint(checkpoint, revision)
    if not os.path.isdir(checkpoint):
        commit = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)._commit_hash or revision
        return checkpoint, commit, commit
    folder = Path(os.path.abspath(checkpoint))
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "preprocessor_config.json"])
    parts = "".join(f"{file.name} {digest(file)}\n" for file in files if file.is_file())
    return str(folder), revision, hashlib.sha256(parts.encode()).hexdigest()


def plan(sources: Sequence[ArchiveSource], output: Path, suffix: str) -> list[SceneRow]:
    """Return a row for each scene."""
    return [
        {"name": source.name, "text": source.text, "destination": str(output / f"{source.stem}{suffix}")}
        for source in sources
    ]


def refuse_other_checkpoints(output: Path, suffix: str, rows: Sequence[SceneRow], job: Job) -> None:
    """Refuse a folder where the results of another checkpoint would stay beside those of a job.

    Raises:
        ValueError: If there are such results, of scenes that are not among `rows`.
    """
    replaced = {path for row in rows for path in _with_layers(Path(row["destination"]))}
    left = [path for path in sorted(output.glob(f"*{suffix}")) if path not in replaced]
    with ThreadPoolExecutor(CHECKS) as pool:
        marks = dict(zip(left, pool.map(_mark_of, left)))
    others = [path.name for path, mark in marks.items() if mark and not mark.startswith(job.identity[:16])]
    if others:
        raise ValueError(
            f"{output}: expected results of one checkpoint, found {len(others)} of another one, such as {others[0]}, "
            "whose scenes are not among the sources. Choose another folder, or remove them."
        )


def split_finished(rows: Sequence[SceneRow], job: Job) -> tuple[list[SceneResult], list[SceneRow]]:
    """Return the results of scenes that are finished, and the rows of all others.

    Only sources that have a result are opened. They were read before without a crash.
    """

    def check(row: SceneRow) -> SceneResult | None:
        started = time.monotonic()
        if not os.path.exists(row["destination"]):
            return None
        try:
            with job.open(ArchiveSource(row["name"], row["text"])) as reader:
                if _is_finished(Path(row["destination"]), job.mark(reader)):
                    return _result(row, "there already", "", square_kilometres(reader), time.monotonic() - started)
        except (ValueError, OSError):  # the worker will report the reason
            pass
        return None

    with ThreadPoolExecutor(CHECKS) as pool:
        found = list(pool.map(check, rows))
    return [result for result in found if result], [row for row, result in zip(rows, found) if not result]


class SceneWorker:
    """A process of Ray, which loads the model when it gets its first scene.

    Args:
        job: The work on every scene.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._loaded: tuple[object, SpectralGPTImageProcessor] | None = None

    def __call__(self, row: SceneRow) -> SceneResult:
        """Process the scene of a row. The status of the result is "done", "there already" or "failed"."""
        started = time.monotonic()
        try:
            status, area = self.work(ArchiveSource(row["name"], row["text"]), Path(row["destination"]))
        except Exception as error:  # no error of one scene may stop the others
            reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            return _result(row, "failed", " ".join(reason.split()), 0.0, time.monotonic() - started)
        return _result(row, status, "", area, time.monotonic() - started)

    def work(self, source: ArchiveSource, destination: Path) -> tuple[str, float]:
        """Process a scene, and return its status and its area in square kilometres."""
        job = self.job
        with job.open(source) as reader:
            mark, area = job.mark(reader), square_kilometres(reader)
        if _is_finished(destination, mark):
            return "there already", area
        model, processor = self.load()
        _remove_result(destination)
        run = embed_scene if job.kind == "embed" else predict_scene
        run(
            model,
            processor,
            source.open(),
            destination,
            tags={TAG: mark},
            overwrite=job.overwrite,
            progress=False,
            **job.options,
        )
        if job.kind == "predict":
            with rasterio.open(destination) as file:  # which may cover a part of the scene
                box = Box(0, 0, file.width, file.height)
                item = describe_result(destination, "classes", file, box, [source.open()], model, file.tags())
            write_json(item_path(destination), item)
        return "done", area

    def load(self) -> tuple[Any, SpectralGPTImageProcessor]:
        """Return the model and its processor."""
        if self._loaded is None:
            load, job = load_encoder if self.job.kind == "embed" else load_model, self.job
            self._loaded = load(
                job.checkpoint, job.device, job.weights_dtype, revision=job.revision, **dict(job.processor)
            )
        return self._loaded


def run_on_ray(
    rows: Sequence[SceneRow],
    job: Job,
    workers: int,
    gpus: float = 0,
    worker: type[SceneWorker] = SceneWorker,
    report: Callable[[str], object] = print,
) -> list[SceneResult]:
    """Process scenes on the cluster to which Ray is connected.

    Args:
        rows: Rows from `plan`.
        job: The work on every scene.
        workers: Number of processes, each with its own model.
        gpus: Number of GPUs per worker; several workers share one if it is a fraction. With 0, each worker uses one
            CPU core.
        worker: Class of the workers.
        report: Function that is called with one line of text for each pass over the scenes.

    Returns:
        A result for each row, in any order.
    """
    finished: dict[str, SceneResult] = {}
    left = list(rows)
    for attempt in range(1, ATTEMPTS + 1):
        if not left:
            break
        report(f"Attempt {attempt} of {ATTEMPTS}: {len(left)} scenes")
        found = {result["destination"]: result for result in _one_pass(left, job, workers, gpus, worker)}
        for row in left:
            result = found.get(row["destination"]) or _result(row, "failed", KILLED, 0.0, 0.0)
            before = finished.get(row["destination"])
            seconds = result["seconds"] + (before["seconds"] if before else 0.0)
            finished[row["destination"]] = {**result, "attempts": attempt, "seconds": seconds}
        left = [row for row in left if finished[row["destination"]]["status"] == "failed"]
    return list(finished.values())


def _one_pass(
    rows: Sequence[SceneRow], job: Job, workers: int, gpus: float, worker: type[SceneWorker]
) -> list[SceneResult]:
    """Try each scene once. Scenes whose worker died have no result."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the summary lists scenes that kill their worker
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = "TQDM_DISABLE" not in os.environ
    callable_class: Any = worker  # the type hints of Ray accept functions only
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
        callable_class,
        fn_constructor_args=(job,),
        # A worker holds one scene at a time, because a scene that kills it would fail all scenes in its queue.
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1),
        num_gpus=gpus or None,
        num_cpus=None if gpus else 1,
        max_restarts=-1,
        max_task_retries=0,
    )
    return cast(list[SceneResult], list(dataset.iter_rows()))


SUMMARY = pa.schema(
    {
        "source": pa.string(),
        "destination": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "attempts": pa.int32(),
        "km2": pa.float64(),
        "seconds": pa.float64(),
    }
)


def write_summary(path: Path, results: Sequence[SceneResult]) -> None:
    """Write the results in the order of their sources."""
    ordered = sorted(results, key=lambda result: str(result["source"]))
    with atomic_path(path) as scratch:
        pq.write_table(pa.Table.from_pylist(list(map(dict, ordered)), SUMMARY), scratch)


def remove_outdated(results: Sequence[SceneResult], job: Job) -> None:
    """Remove what another checkpoint or other options made of the scenes that failed now.

    A result of this job is kept, because the reason may be that its source cannot be reached for a while.
    """
    for result in results:
        path = Path(result["destination"])
        if result["status"] == "failed" and not (_mark_of(path) or job.key).startswith(job.key):
            _remove_result(path)


def square_kilometres(reader: RasterReader) -> float:
    """Return the area of a scene's grid on the ground; 0 if it has no georeference."""
    return ground_hectares(reader.crs, reader.transform, (reader.height, reader.width)) / 100


def _result(row: SceneRow, status: str, reason: str, area: float, seconds: float) -> SceneResult:
    return {
        "source": row["name"],
        "destination": row["destination"],
        "status": status,
        "reason": reason,
        "attempts": 0 if status == "there already" else 1,
        "km2": round(area, 6),
        "seconds": round(seconds, 3),
    }


def _is_finished(result: Path, mark: str) -> bool:
    """Return whether a result has this fingerprint, and its STAC item, which is written last."""
    return _mark_of(result) == mark and item_path(result).is_file()


def _remove_result(path: Path) -> None:
    """Remove the result of an archive with all files beside it. Files of another origin stay."""
    mark = _mark_of(path)
    if mark is None:
        return
    layers = [layer for layer in _with_layers(path)[1:] if _mark_of(layer) == mark]
    for file in [*layers, style_path(path), item_path(path), path]:
        file.unlink(missing_ok=True)


def _with_layers(path: Path) -> list[Path]:
    """Return a result and the files of its layers, which may not exist."""
    return [path, *(path.with_name(f"{path.stem}_{layer}{path.suffix}") for layer in LAYERS)]


def _mark_of(path: str | Path) -> str | None:
    """Return the fingerprint in a result; None if the file does not exist or is not the result of an archive."""
    if not os.path.isfile(path):
        return None
    try:
        if str(path).endswith(".parquet"):
            return (pq.read_schema(path).metadata or {}).get(TAG.encode(), b"").decode() or None
        with rasterio.open(path) as dataset:
            return dataset.tags().get(TAG)
    except (pa.ArrowInvalid, rasterio.errors.RasterioError):
        return None
