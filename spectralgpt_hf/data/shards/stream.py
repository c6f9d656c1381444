"""Batches from Parquet shards, in an order that depends only on (seed, epoch, batch number).

That position is the only state, so a run resumes exactly where it stopped, and the samples of a global batch do not
depend on the number of processes that share it. Row groups are permuted over all shards, and rows within their group.
Each slot of the batch then takes rows from groups of its own: a batch mixes many groups, and yet each group is read
once per epoch, by one process.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypedDict

import numpy as np
import torch

from ...modeling.bands import SENTINEL_2, Sensor
from ...modeling.pixel_statistics import allocate
from ..keyed_random import keyed_uniform
from .format import PathLike, ShardFile, decode_rows, find_shards


logger = logging.getLogger(__name__)

# A slot of the batch takes RUN rows of a group before it changes to another group. For large batches it takes fewer,
# because a process holds two windows of (rows of a run) x (global batch) rows in memory.
RUN, WINDOW = 16, 8192
# Streams of random numbers that differ from those of crops and masks, which have the same keys.
GROUP_STREAM, ROW_STREAM = 100, 101


Stored: TypeAlias = tuple[np.ndarray, list[int]]
"""An image (C, H, W) as stored in a shard, and the positions in it of the bands to read."""


class Batch(TypedDict, total=False):
    """The images of a training step, on the CPU.

    Attributes:
        ids: (B,) int64, numbers of the rows over all shards, which are the keys of their crops and masks.
        images: (B, C, H, W) uint16, padded with 0 at the bottom and the right.
        extent: (B, 2) int64, height and width of each image without the padding.
        valid: (B, H, W) bool, False where a pixel has no data; absent where all have.
        skipped: Number of rows that could not be read. Their images have no data.
    """

    ids: torch.Tensor
    images: torch.Tensor
    extent: torch.Tensor
    valid: torch.Tensor
    skipped: int


class ShardStream:
    """Batches of the images in Parquet shards.

    Threads read and decompress the shards. They release Python's lock, and nothing is copied between processes.

    Args:
        source: Folder of shards, one shard or a pattern, as in `find_shards`.
        bands: Names of the bands to read, in order.
        batch_size: Number of images per batch and process.
        split: "train", "validation" or "test".
        seed: Seed of the order.
        shuffle: Whether to permute the rows. Otherwise they come in the order of the shards.
        num_processes: Number of processes that share each global batch of `batch_size` x `num_processes` images.
        process_index: Number of this process.
        num_workers: Number of threads.
        pin_memory: Whether batches are in pinned memory, from which a GPU copies asynchronously.
        sensor: Sensor of the bands.

    Attributes:
        fingerprint: Digest of the shards' names, sizes and footers.

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: If a shard is damaged or lacks a band, or if all shards together do not fill a batch.
    """

    def __init__(
        self,
        source: PathLike,
        bands: Sequence[str],
        batch_size: int,
        *,
        split: str = "train",
        seed: int = 0,
        shuffle: bool = True,
        num_processes: int = 1,
        process_index: int = 0,
        num_workers: int = 2,
        pin_memory: bool = False,
        sensor: Sensor = SENTINEL_2,
    ) -> None:
        self.paths = find_shards(source, split)
        self.bands = sensor.resolve_all(bands)
        self.batch_size, self.num_workers, self.pin_memory = batch_size, num_workers, pin_memory
        self.seed, self.shuffle = seed, shuffle
        self.global_batch_size = batch_size * num_processes
        self._slots = slice(process_index * batch_size, (process_index + 1) * batch_size)
        starts, groups, first, shards = [], [], 0, []
        for number, path in enumerate(self.paths):
            with ShardFile(path) as shard:
                for found in self._band_lists(shard):
                    missing = [band for band in self.bands if band not in found]
                    if missing:
                        raise ValueError(
                            f"{path}: expected the bands {', '.join(self.bands)} in every row, found "
                            f"{', '.join(found)}: {', '.join(missing)} missing."
                        )
                starts.append(first + shard.row_group_offsets[:-1])
                groups += [(number, index) for index in range(shard.num_row_groups)]
                first += shard.num_rows
                shards.append(shard.fingerprint())
        self.fingerprint = hashlib.sha256(" ".join(shards).encode()).hexdigest()
        self._groups = groups
        self._starts = np.concatenate([*starts, [first]])  # number of the first row of each group
        if not len(self):
            raise ValueError(
                f"{source}: {self.num_samples} samples in the split {split} do not fill a batch of {batch_size} on "
                f"{num_processes} processes: prepare more samples, or lower `batch_size`."
            )

    @property
    def num_samples(self) -> int:
        """Number of rows in all shards."""
        return int(self._starts[-1])

    def __len__(self) -> int:
        """Return the number of batches per epoch. The rows that do not fill a last batch differ between epochs."""
        return self.num_samples // self.global_batch_size

    def batch_ids(self, epoch: int) -> np.ndarray:
        """Return the numbers (batches, batch size) of the rows that this process takes in an epoch."""
        sizes = np.diff(self._starts)
        rows, group_of_row = np.arange(self.num_samples), np.repeat(np.arange(len(sizes)), sizes)
        if self.shuffle:
            groups = keyed_uniform(self.seed, epoch, torch.arange(len(sizes)), 1, GROUP_STREAM)[:, 0].numpy()
            keys = keyed_uniform(self.seed, epoch, torch.from_numpy(rows), 1, ROW_STREAM)[:, 0].numpy()
            rows = np.lexsort((keys, group_of_row, groups[group_of_row]))
        count, size = len(self), self.global_batch_size
        run = max(1, min(RUN, WINDOW // size)) if self.shuffle else 1
        full = count // run * run
        runs = [rows[: full * size].reshape(-1, size, run), rows[full * size : count * size].reshape(1, size, -1)]
        return np.concatenate([part.swapaxes(1, 2).reshape(-1, size) for part in runs])[:, self._slots]

    def endless(self, position: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield the batches from number `position` on, without end, each with the number of its epoch."""
        epoch, start = divmod(position, len(self))
        while True:
            yield from ((epoch, batch) for batch in self.batches(epoch, start))
            epoch, start = epoch + 1, 0

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Args:
            epoch: Number of the pass over the data.
            start: Number of the first batch, for a run that resumes.
        """
        ids = self.batch_ids(epoch)[start:]
        group_of = np.searchsorted(self._starts, ids, side="right") - 1
        last_use = {int(group): number for number, groups in enumerate(group_of) for group in groups}
        loaded: dict[int, Future[list[Stored | None]]] = {}
        ready: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(max(1, self.num_workers), thread_name_prefix="shards")
        try:
            for number, groups in enumerate(group_of):
                for group in np.unique(groups).tolist():
                    if group not in loaded:
                        loaded[group] = pool.submit(self._load, group)
                rows = [(loaded[group], row - self._starts[group]) for group, row in zip(groups.tolist(), ids[number])]
                ready.append(pool.submit(self._assemble, ids[number], rows))
                for group in [group for group in loaded if last_use[group] <= number]:
                    del loaded[group]
                if len(ready) > 2 * self.num_workers:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _band_lists(self, shard: ShardFile) -> set[tuple[str, ...]]:
        try:
            return shard.band_lists()
        except ValueError:
            return set()  # damaged rows are counted when they are read

    def _load(self, group: int) -> list[Stored | None]:
        """Return the images of a row group with the positions of the bands; None for an image that cannot be read."""
        number, index = self._groups[group]
        try:
            with ShardFile(self.paths[number]) as shard:
                table = shard.read_row_group(index, ["pixels", "shape", "bands"])
        except (OSError, ValueError) as error:
            logger.warning("%s", error)
            return [None] * int(self._starts[group + 1] - self._starts[group])
        images: list[Stored | None] = []
        for row, (image, names) in enumerate(zip(decode_rows(table), table["bands"].to_pylist())):
            if image is None or not set(self.bands) <= set(names or ()) or len(names) != len(image):
                logger.warning("%s: row %d of row group %d is corrupt.", self.paths[number], row, index)
                images.append(None)
            else:
                images.append((image, [names.index(band) for band in self.bands]))
        return images

    def _assemble(self, ids: np.ndarray, rows: list[tuple[Future[list[Stored | None]], int]]) -> Batch:
        images = [group.result()[row] for group, row in rows]
        sizes = [image[0].shape[1:] for image in images if image is not None] or [(1, 1)]
        height, width = (max(lengths) for lengths in zip(*sizes))
        shape = (len(images), len(self.bands), height, width)
        same = len(set(sizes)) == 1 and len(sizes) == len(images)
        if self.pin_memory:
            batch = torch.empty(shape, dtype=torch.uint16, pin_memory=True)
        else:
            batch = allocate(shape, torch.uint16, torch.device("cpu"))
        if not same:
            batch.zero_()
        pixels, extent = batch.numpy(), np.full((len(images), 2), (height, width))
        valid = np.ones((len(images), height, width), bool)
        for slot, stored in enumerate(images):
            if stored is None:
                valid[slot] = False
                continue
            image, positions = stored
            extent[slot] = image.shape[1:]
            part = pixels[slot, :, : image.shape[1], : image.shape[2]]
            if same:
                np.take(image, positions, axis=0, out=part, mode="clip")  # the other modes make a copy first
            else:
                part[:] = image[positions]
            # A pixel has no data if it is 0 in all bands, including those that are not read.
            valid[slot, : image.shape[1], : image.shape[2]] = part[0].all() or image.any(axis=0)
        result = Batch(
            ids=torch.from_numpy(ids),
            images=batch,
            extent=torch.from_numpy(extent),
            skipped=sum(image is None for image in images),
        )
        if not valid.all():
            result["valid"] = torch.from_numpy(valid)
        return result
