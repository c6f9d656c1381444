"""Embed an archive of thousands of scenes with Ray Data, on one machine or a cluster.

    python examples/embed_archive.py CHECKPOINT 'archive/*.tif' --output vectors --workers 4
    python examples/embed_archive.py CHECKPOINT scenes.txt --output maps --suffix .tif --gpus 1 --address auto

On a cluster, sources and output must be on storage that all machines share. Repeat the command to resume: finished
scenes are skipped, and the finished strips of an interrupted scene are kept. Files get their final names when they are
complete. If a worker dies, Ray starts another one with the same scene. The command needs
`pip install spectralgpt-hf[ray]`.
"""

import argparse
import glob
import sys
from collections import Counter
from pathlib import Path
from typing import NotRequired, TypedDict

from ..assets import find_checkpoint
from ..inference import embed_scene
from ..inference.checkpoints import load_encoder


class SceneRow(TypedDict):
    """A scene of the archive and the file to write; after the work also what happened.

    `status` is "embedded", "there already", or "failed: " and the reason.
    """

    source: str
    destination: str
    status: NotRequired[str]


class EmbeddingOptions(TypedDict, total=False):
    """The arguments of `embed_scene` that a run sets."""

    stride: int | None


class Embedder:
    """A worker, which loads the model once and then embeds one scene after another."""

    def __init__(self, checkpoint: str, device: str | None, options: EmbeddingOptions) -> None:
        self.model, self.processor = load_encoder(checkpoint, device)
        self.options = options

    def __call__(self, row: SceneRow) -> SceneRow:
        """Embed the scene of a row, and return the row with its `status`."""
        source, destination = row["source"], Path(row["destination"])
        if destination.exists():
            return {**row, "status": "there already"}
        try:
            embed_scene(self.model, self.processor, source, destination, progress=False, **self.options)
        except (ValueError, OSError) as error:  # one damaged file must not stop the archive
            return {**row, "status": f"failed: {error}"}
        return {**row, "status": "embedded"}


def find_scenes(patterns: list[str]) -> list[str]:
    """Return the scenes that paths, patterns and lists (.txt, one scene per line) name, without repetitions.

    Raises:
        FileNotFoundError: If there are none.
    """
    scenes: list[str] = []
    for pattern in patterns:
        if pattern.endswith(".txt"):
            scenes += [line.strip() for line in Path(pattern).read_text().splitlines() if line.strip()]
        else:
            scenes += sorted(glob.glob(pattern, recursive=True)) or ([pattern] if "://" in pattern else [])
    if not scenes:
        raise FileNotFoundError(f"{', '.join(patterns)}: expected scenes, found none. Check the paths and patterns.")
    return list(dict.fromkeys(scenes))


def plan(scenes: list[str], output: Path, suffix: str) -> list[SceneRow]:
    """Return a row for each scene that has no result yet.

    Raises:
        ValueError: If two scenes would have the same result.
    """
    destinations = {scene: output / f"{Path(scene.rstrip('/')).stem}{suffix}" for scene in scenes}
    twice = [path for path, count in Counter(destinations.values()).items() if count > 1]
    if twice:
        raise ValueError(f"Several scenes would be written to {twice[0]}: rename them, or choose several outputs.")
    return [{"source": scene, "destination": str(path)} for scene, path in destinations.items() if not path.exists()]


def embed_archive(
    rows: list[SceneRow],
    checkpoint: str,
    workers: int,
    gpus: float,
    options: EmbeddingOptions,
    worker: type[Embedder] = Embedder,
) -> dict[str, str]:
    """Embed the scenes of `plan` on the cluster that Ray is connected to.

    Args:
        rows: Rows of `plan`.
        checkpoint: Folder that all machines can read, or name on the Hub.
        workers: Number of processes, each with a model.
        gpus: GPUs per worker; a fraction shares one. With 0, each worker takes one core.
        options: Options of `embed_scene`.
        worker: Class of the workers.

    Returns:
        The status of each source.
    """
    import ray

    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        worker,  # type: ignore[arg-type]  # Ray types rows as plain dicts
        fn_constructor_args=(checkpoint, "cuda" if gpus else "cpu", options),
        concurrency=workers,
        num_gpus=gpus or None,
        num_cpus=None if gpus else 1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    return {row["source"]: row["status"] for row in dataset.iter_rows()}


def main() -> None:
    """Embed an archive with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="Checkpoint: a folder that all machines can read, or a name on the Hub.")
    parser.add_argument("scenes", nargs="+", help="Paths, patterns, or .txt files with one scene per line.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the results.")
    parser.add_argument(
        "--suffix",
        default=".parquet",
        choices=(".parquet", ".tif"),
        help="Whether to write one vector per chip (.parquet, the default) or a map of features (.tif).",
    )
    parser.add_argument("--stride", type=int, help="Distance between chips or tiles in pixels, as in embed_scene.")
    parser.add_argument("--workers", type=int, default=2, help="Number of processes. Default: %(default)s.")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per worker; a fraction shares one. Default: none.")
    parser.add_argument(
        "--address", help="Address of a running Ray cluster, or `auto`. Default: start Ray on this machine."
    )
    arguments = parser.parse_args()
    checkpoint = find_checkpoint(arguments.checkpoint)  # a mistyped name ends the program before Ray starts
    arguments.output.mkdir(parents=True, exist_ok=True)
    scenes = find_scenes(arguments.scenes)
    rows = plan(scenes, arguments.output.absolute(), arguments.suffix)
    print(f"{len(scenes)} scenes, {len(scenes) - len(rows)} of them finished")
    if not rows:
        return

    import ray

    ray.init(address=arguments.address, num_cpus=None if arguments.address else arguments.workers)
    options: EmbeddingOptions = {"stride": arguments.stride}
    statuses = embed_archive(rows, checkpoint, arguments.workers, arguments.gpus, options)
    failed = {source: status for source, status in statuses.items() if status.startswith("failed")}
    for source, status in failed.items():
        print(f"{source}: {status}")
    print(f"{len(statuses) - len(failed)} embedded, {len(failed)} failed: {arguments.output}")
    sys.exit(1 if failed else 0)
