"""Write a folder of Parquet shards from image files, in several processes: `spectralgpt prepare`.

The content depends only on the sources and the options, not on the number of processes. After an interruption, the
same call resumes: finished shards are kept in the folder `.progress` until all are complete. The folder also holds
`statistics.json`, `report.json` (files that could not be read, chips that were left out) and `README.md`, a dataset
card for the Hub.
"""

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import pyarrow as pa
from datasets.utils import tqdm

from ...files import locked, write_json, write_text
from ...modeling.bands import SENTINEL_2, Sensor
from ...modeling.sensors import get_sensor
from ..readers.common import PathLike
from .card import render_card
from .format import SPLIT_NAMES, Compression, ShardRow, shard_path, shard_schema, write_shard
from .histograms import Histograms
from .sampling import DATASETS, Plan, Reading, Report, Sample, plan_dataset, plan_files, read_rows


KINDS = (*DATASETS, "folder", "scenes")
PROGRESS = ".progress"
MIN_VALID = 0.5


def prepare_shards(
    sources: PathLike | Sequence[PathLike],
    output: PathLike,
    dataset: str = "scenes",
    *,
    splits: Sequence[str] = SPLIT_NAMES,
    bands: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    size: int | None = None,
    stride: int | None = None,
    min_valid: float | None = None,
    scale: float = 1.0,
    validation_share: float = 0.0,
    seed: int = 0,
    rows_per_shard: int = 512,
    compression: Compression = "lz4",
    license: str | None = None,
    num_workers: int | None = None,
    sensor: Sensor | str = SENTINEL_2,
    **options: object,
) -> Path:
    """Convert a dataset, folders of GeoTIFFs or scenes into shards. Repeat the call to resume after an interruption.

    Args:
        sources: Root of the dataset; folders of images; or scenes that `open_raster` reads, and folders of them.
        output: Folder to write.
        dataset: "fmow", "bigearthnet-v1", "bigearthnet-v2" or "eurosat"; "folder", where each image below the folders
            is a sample; or "scenes", which are cut into chips on the finest grid of their sensor. An image is a
            GeoTIFF, a SAFE product, a folder of one file per band (SSL4EO-S12, SeCo, Major TOM) or resolution
            (SeasoNet), a row of a Parquet file with one GeoTIFF per band (Major TOM on the Hub) or, with `band_names`,
            an `.npy` array. The radar images and maps of SEN12MS are left out.
        splits: Splits of a dataset to write: "train", "validation", "test"; "all" is stored as "train".
        bands: Names of the bands to keep, in order. By default all, in the order of the files.
        band_names: Names of the bands of folders and scenes, in order, if the files do not state them.
        size: Height and width of chips, in pixels. By default 192 for scenes; the images of folders are kept whole.
        stride: Distance between chips, in pixels; `size` by default.
        min_valid: Smallest share of pixels with data. By default 0.5 for chips; other samples need one such pixel.
        scale: Factor from stored values to digital numbers: 10000 for folders and scenes that hold reflectances.
        validation_share: Share of the files or scenes to hold out as the split "validation". They hold at most this
            share of the samples.
        seed: Seed of the choice of validation files.
        rows_per_shard: Number of samples per shard. Samples with too little data count too, and are left out after
            that.
        compression: "lz4"; "zstd", which is smaller and slower to read; or "none".
        license: Licence of the data for the card, as an identifier of the Hub.
        num_workers: Number of processes that read and write; one per core by default.
        sensor: Sensor of folders or scenes: a name ("landsat-8") or a `Sensor`. Files of other sensors are left out,
            and the report names them.
        options: Further arguments of the dataset's reader, such as `num_classes`, `partition`, `share`.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: If the sources do not exist or hold no images.
        ValueError: If an option is wrong, if the folder holds other files, or if no image could be read.
        OSError: If a shard cannot be written, for example on a full disk.
    """
    output = Path(output)
    roots = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if dataset in DATASETS and (len(roots) != 1 or band_names or size or stride or validation_share or scale != 1):
        raise ValueError(f"{dataset}: expected one root, and no band names, size, stride, scale or validation share.")
    if dataset not in KINDS or not roots or (options and dataset not in DATASETS):
        raise ValueError(f"Expected sources and `dataset` among {', '.join(KINDS)}; got {dataset!r}, {options}.")
    own = get_sensor(sensor)
    if dataset in DATASETS and own.name != SENTINEL_2.name:
        raise ValueError(f"{dataset} holds Sentinel-2 images: leave out `sensor`, got {own.name!r}.")
    if rows_per_shard < 1:
        raise ValueError(f"`rows_per_shard` must be 1 or more, got {rows_per_shard}.")
    if min_valid is None:
        min_valid = MIN_VALID if size or dataset == "scenes" else 0.0
    if dataset in DATASETS:
        plan = plan_dataset(roots[0], dataset, splits, bands, min_valid, **options)
    else:
        plan = plan_files(
            roots,
            Reading(
                own.resolve_all(bands) if bands else None,
                own.resolve_all(band_names) if band_names else None,
                own.resolution if dataset == "scenes" else None,
                min_valid,
                scale,
                own,
            ),
            are_folders=dataset == "folder",
            size=size or (192 if dataset == "scenes" else None),
            stride=stride,
            validation_share=validation_share,
            seed=seed,
        )
    identity = _identify(plan, rows_per_shard, compression)
    with locked(output):
        if _is_complete(output, identity):
            unreadable = len(json.loads((output / "report.json").read_text(encoding="utf-8"))["unreadable"])
            if unreadable:
                warnings.warn(
                    f"{output} is complete, but {unreadable} files could not be read when it was written. To try "
                    "again, delete the folder first.",
                    stacklevel=2,
                )
            return output
        shards = _shards(plan, output, rows_per_shard)
        job = partial(
            _prepare_shard,
            reading=plan.reading,
            base=plan.report.base,
            schema=shard_schema(plan.class_names, plan.multi_label),
            compression=compression,
        )
        _run(job, shards, num_workers or os.cpu_count() or 1)
        _finish(output, shards, plan, identity, partial(render_card, output.name, dataset, own, license=license))
    return output


@dataclass(frozen=True, eq=False)
class _Shard:
    """One unit of work: the samples to write into `path`."""

    split: str
    path: Path
    samples: list[Sample]

    @property
    def record(self) -> Path:
        """File with the histograms and the report of the shard, which exists when the shard is finished."""
        return self.path.with_suffix(".npz")

    @property
    def is_finished(self) -> bool:
        return self.record.exists()


def _identify(plan: Plan, rows_per_shard: int, compression: str) -> str:
    """Return a hash of everything that determines the content of the shards."""
    reading = asdict(plan.reading)
    if plan.reading.sensor == SENTINEL_2:
        del reading["sensor"]  # so that shards of earlier versions keep their identity
    content = [plan.splits, reading, plan.class_names, rows_per_shard, compression]
    # Paths are made relative to the base, so that sources that were moved give the same hash.
    text = json.dumps(content).replace(json.dumps(os.path.join(plan.report.base, ""))[1:-1], "")
    return hashlib.sha256(text.encode()).hexdigest()


def _is_complete(output: Path, identity: str) -> bool:
    """Return whether the shards are complete. If not, create the folder for progress.

    Raises:
        ValueError: If the folder holds other files, or shards of other sources or options.
    """
    progress, report = output / PROGRESS, output / "report.json"
    plan = progress / "plan.json"
    found = next((json.loads(file.read_text())["plan"] for file in (plan, report) if file.is_file()), None)
    if found is None and output.is_dir() and any(path.name != PROGRESS for path in output.iterdir()):
        raise ValueError(f"{output}: expected an empty or a new folder, found other files in it.")
    if found not in (None, identity):
        raise ValueError(
            f"{output} holds shards of other sources or options. Repeat the command with those to resume it, or choose "
            "another folder."
        )
    if found and not progress.is_dir():
        return True
    progress.mkdir(parents=True, exist_ok=True)
    for stale in progress.glob(".*.part"):
        stale.unlink()
    write_json(plan, {"plan": identity})
    return False


def _shards(plan: Plan, output: Path, rows_per_shard: int) -> list[_Shard]:
    return [
        _Shard(
            split,
            output / PROGRESS / f"{split}-{start // rows_per_shard:05d}.parquet",
            samples[start:][:rows_per_shard],
        )
        for split, samples in plan.splits.items()
        for start in range(0, len(samples), rows_per_shard)
    ]


def _run(job: Callable[[_Shard], None], shards: list[_Shard], num_workers: int) -> None:
    """Run the job on the shards that are not finished, without further processes if one is enough."""
    left = [shard for shard in shards if not shard.is_finished]
    total, done = (sum(len(shard.samples) for shard in some) for some in (shards, set(shards) - set(left)))
    with tqdm(total=total, initial=done, desc="Preparing", unit="sample") as progress:
        if min(num_workers, len(left)) <= 1:
            for shard in left:
                job(shard)
                progress.update(len(shard.samples))
            return
        pool = ProcessPoolExecutor(min(num_workers, len(left)), get_context("spawn"), _end_with_parent)
        try:
            futures = {pool.submit(job, shard): shard for shard in left}
            for future in as_completed(futures):
                future.result()
                progress.update(len(futures[future].samples))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "A process ended before its shard was finished, perhaps for lack of memory. Repeat the command with "
                "fewer workers to resume."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for work forever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepare_shard(shard: _Shard, reading: Reading, base: str, schema: pa.Schema, compression: Compression) -> None:
    report, histograms = Report(base), Histograms()

    def counted() -> Iterator[ShardRow]:
        for row in read_rows(shard.samples, reading, report):
            histograms.add(row.bands, row.pixels)
            yield row

    rows = write_shard(counted(), shard.path, schema, compression)
    histograms.save(shard.record, {"rows": rows, "report": report.as_dict()})


def _finish(output: Path, shards: list[_Shard], plan: Plan, identity: str, card: Callable[..., str]) -> None:
    """Rename the shards that have rows to their final names, and write statistics, report and card."""
    statistics, rows = {}, {}
    for split in plan.splits:
        of_split, histograms, counts = [shard for shard in shards if shard.split == split], Histograms(), []
        for shard in of_split:
            record = histograms.merge(shard.record)
            plan.report.add(record["report"])
            counts.append(record["rows"])
        if any(counts):
            statistics[split], rows[split] = histograms.statistics(), sum(counts)
            filled = [shard.path for shard, count in zip(of_split, counts) if count]
            for i, path in enumerate(filled):
                final = shard_path(output, split, i, len(filled))
                final.parent.mkdir(exist_ok=True)
                if path.exists():
                    path.replace(final)
    report = plan.report.as_dict()
    if not rows:
        shutil.rmtree(output / PROGRESS)
        reasons = [entry["reason"] for entry in report["unreadable"]]
        raise ValueError(
            f"{output}: there are no samples to write. {len(reasons)} files could not be read, "
            f"{len(report['left_out'])} samples hold too little data. {' '.join(reasons[:3])}"
        )
    write_json(output / "statistics.json", statistics)
    write_text(output / "README.md", card(rows, statistics, report, plan.class_names) + "\n")
    write_json(output / "report.json", {"rows": rows, **report, "plan": identity})
    shutil.rmtree(output / PROGRESS)
    for text, count in report["warnings"].items():
        warnings.warn(f"{text} ({count} times)", stacklevel=3)
    if report["unreadable"] or report["left_out"]:
        warnings.warn(
            f"{len(report['unreadable'])} files could not be read, {len(report['left_out'])} samples hold too little "
            f"data: {output / 'report.json'} lists them.",
            stacklevel=3,
        )
