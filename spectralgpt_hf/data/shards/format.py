"""Parquet shards: multispectral samples in plain Arrow columns, which `datasets.load_dataset` reads directly.

A folder holds `data/{split}-00000-of-00012.parquet`. Columns of a row:

- `id`: string, unique in the folder
- `pixels`: binary, little-endian uint16 (C, H, W); a pixel is 0 in all bands if, and only if, it has no data
- `shape`: list of int32, C, H, W
- `bands`: list of string, canonical names in the order of the pixels
- `offset`: list of float32 or null; digital number = stored + offset, where the metadata of the source state it
- `crs`: string (EPSG:n or WKT) or null; `transform`: list of six float64 (affine) or null; `date`: string (ISO) or null
- `label`: int64, or `labels`: list of int64; names of the classes are in the schema, where `datasets` looks for them

Row groups are small, so that a single row can be read without decoding a whole shard. They are compressed with LZ4,
which leaves two thirds of the bytes; reading 13 x 192 x 192 px with the checksum takes 0.5 ms. Zstandard leaves half of
the bytes and takes 1 ms, no compression takes 0.4 ms (`python -m benchmarks 'shards-*'` compares them).
"""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...files import atomic_path, remove


PathLike: TypeAlias = str | os.PathLike[str]
Compression: TypeAlias = Literal["zstd", "lz4", "none"]

SPLIT_NAMES = ("train", "validation", "test")
ROW_GROUP_BYTES = 4 * 2**20
ROW_GROUP_ROWS = 64


class UnreadableFile(TypedDict):
    """A file that could not be read, why, and the ids of the samples that are missing because of it."""

    file: str
    reason: str
    samples: list[str]


class LeftOutSample(TypedDict):
    """The id of a sample with too little data, and its share of valid pixels."""

    id: str
    valid: float


class ReportRecord(TypedDict):
    """The content of `report.json`: counts of samples that became no rows, and of warnings."""

    unreadable: list[UnreadableFile]
    left_out: list[LeftOutSample]
    clipped_values: int
    warnings: dict[str, int]


@dataclass(frozen=True, eq=False)
class ShardRow:
    """One sample to write into a shard. The attributes are the columns; `pixels` are (C, H, W), uint16."""

    id: str
    pixels: np.ndarray
    bands: Sequence[str]
    offset: Sequence[float] | None = None
    crs: str | None = None
    transform: Sequence[float] | None = None
    date: str | None = None
    label: int | None = None
    labels: Sequence[int] | None = None


def find_shards(source: PathLike, split: str = "train") -> list[Path]:
    """Return the shards of a split, in order.

    Args:
        source: Folder of shards; or one shard or a pattern (`/archive/*/data/train-*.parquet`), for which `split` is
            ignored.
        split: "train", "validation" or "test".

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If some are missing, because preparing them was interrupted.
    """
    if os.path.isdir(source):
        pattern = f"{split}-*-of-*.parquet"
        found = sorted(Path(source).glob(f"data/{pattern}")) or sorted(Path(source).glob(pattern))
    else:
        pattern, found = os.fspath(source), [Path(path) for path in sorted(glob(os.fspath(source), recursive=True))]
    if not found:
        raise FileNotFoundError(
            f"{source}: expected shards (data/{split}-00000-of-00001.parquet, ...), found none. Make them with "
            "`spectralgpt prepare SOURCE FOLDER`."
        )
    count = re.search(r"-of-(\d+)\.parquet$", found[0].name)
    if os.path.isdir(source) and count and int(count[1]) != len(found):
        raise ValueError(
            f"{source}: expected {int(count[1])} shards of the split {split}, found {len(found)}. If preparing them "
            "was interrupted, repeat the command to finish."
        )
    return found


class ShardFile:
    """An open shard. Use it in a `with` statement, or close it.

    Attributes:
        path: The file.
        num_rows: Number of rows.
        row_group_offsets: Number of the first row of each row group, followed by the number of rows.
        columns: Names of the columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or not a shard. The message names it.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        try:
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: no such shard.") from error
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: cannot be read as a Parquet shard; damaged or incomplete ({error}).") from error
        metadata, schema = self._file.metadata, self._file.schema_arrow
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.row_group_offsets = np.cumsum([0, *sizes], dtype=np.int64)
        self.num_rows = metadata.num_rows
        self.columns = tuple(schema.names)
        unfit = [
            name for name, fits in _REQUIRED.items() if name not in schema.names or not fits(schema.field(name).type)
        ]
        if unfit:
            self.close()
            raise ValueError(
                f"{path}: expected the columns of a shard ({', '.join(_REQUIRED)}), found {', '.join(schema.names)}; "
                f"{', '.join(unfit)} missing or of another type."
            )

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def fingerprint(self) -> str:
        """Return a digest of the file's name, size and footer, by which a run recognises that its shards changed."""
        with open(self.path, "rb") as file:
            end = file.seek(-8, os.SEEK_END)  # the end of the footer, after which its length is stored
            length = int.from_bytes(file.read(4), "little")
            file.seek(end - length)
            footer = file.read(length)
        return hashlib.sha256(f"{self.path.name} {end} ".encode() + footer).hexdigest()

    @property
    def num_row_groups(self) -> int:
        """Number of row groups."""
        return len(self.row_group_offsets) - 1

    def band_lists(self) -> set[tuple[str, ...]]:
        """Return the distinct lists of bands of the rows, which need not all have the same bands.

        Raises:
            ValueError: If that column is damaged.
        """
        with _damage_named(str(self.path)):
            column = self._file.read(["bands"], use_threads=False)["bands"]
        return {tuple(names) for names in column.to_pylist() if names}

    def read_row_group(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a row group, in the calling thread.

        Raises:
            ValueError: If the row group is damaged, for example if its bytes do not match their checksum.
        """
        with _damage_named(f"{self.path}: row group {index}"):
            return self._file.read_row_group(index, columns and list(columns), use_threads=False)


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{what} cannot be read; damaged ({error}).") from error


def decode_rows(table: pa.Table) -> list[np.ndarray | None]:
    """Return the pixels (C, H, W), uint16, of each row, as views of the table; None for a corrupt row."""
    shapes = iter(table["shape"].to_pylist())
    images = []
    for chunk in table["pixels"].chunks:
        # The buffers are read directly, because a scalar of Arrow would copy its bytes.
        _, bounds, content = chunk.cast(pa.large_binary()).buffers()
        starts = np.frombuffer(bounds, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        values = np.frombuffer(content or b"", np.uint8)
        for start, end, valid, shape in zip(starts, starts[1:], chunk.is_valid().to_pylist(), shapes):
            images.append(_decode(values[start:end], shape) if valid else None)
    return images


def shard_schema(class_names: Sequence[str] | None = None, multi_label: bool = False) -> pa.Schema:
    """Return the columns of shards with one class per row, with several (`multi_label`), or with none."""
    from datasets import ClassLabel, Features, List, Value  # importing it takes a second, and training does not need it

    text, numbers = Value("string"), List(Value("float64"))
    features = {"id": text, "pixels": Value("binary"), "shape": List(Value("int32")), "bands": List(text)}
    features |= {"offset": List(Value("float32")), "crs": text, "transform": numbers, "date": text}
    if class_names is not None:
        label = ClassLabel(names=list(class_names))
        features |= {"labels": List(label)} if multi_label else {"label": label}
    return Features(features).arrow_schema


def write_shard(rows: Iterable[ShardRow], path: PathLike, schema: pa.Schema, compression: Compression = "lz4") -> int:
    """Write one shard under a temporary name, and rename it when it is complete.

    Args:
        rows: Samples, of which at most a row group is held in memory.
        path: Destination. The temporary file is beside it, with a name that starts with a dot.
        schema: As `shard_schema` returns it.
        compression: "zstd", "lz4" or "none".

    Returns:
        The number of rows.

    Raises:
        ValueError: If the pixels of a row are not uint16 (C, H, W) with a name for each band.
        OSError: If the file cannot be written, for example on a full disk. The temporary file is then removed.
    """
    count = 0
    with (
        atomic_path(path) as scratch,
        pq.ParquetWriter(
            scratch,
            schema,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=["bands", "crs"],
            write_statistics=["id"],
            write_page_checksum=True,
        ) as writer,
    ):
        for group in _row_groups(rows):
            columns = {name: [getattr(row, name) for row in group] for name in schema.names if name in _PLAIN}
            columns["pixels"] = [_encode(row) for row in group]
            columns["shape"] = [row.pixels.shape for row in group]
            writer.write_table(pa.table(columns, schema))
            count += len(group)
    return count


def write_shards(
    rows: Iterable[ShardRow],
    folder: PathLike,
    split: str = "train",
    *,
    rows_per_shard: int = 512,
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    compression: Compression = "lz4",
) -> list[Path]:
    """Write samples that are in memory. `prepare_shards` writes those of files, in parallel.

    Args:
        rows: Samples.
        folder: Folder in which `data/{split}-00000-of-000NN.parquet` appear when all of them are complete.
        split: "train", "validation" or "test".
        rows_per_shard: Number of samples per shard; the last may have fewer.
        class_names, multi_label: As in `shard_schema`.
        compression: As in `write_shard`.

    Raises:
        ValueError: If there are shards of this split already, or as in `write_shard`.
        OSError: If a shard cannot be written.
    """
    data = Path(folder) / "data"
    if split not in SPLIT_NAMES or any(data.glob(f"{split}-*.parquet")):
        raise ValueError(f"{data}: expected a split among {', '.join(SPLIT_NAMES)} without shards so far, got {split}.")
    schema, rows = shard_schema(class_names, multi_label), iter(rows)
    scratch = data / f".{split}.{os.getpid()}.part"
    written: list[Path] = []
    try:
        while chunk := list(islice(rows, rows_per_shard)):
            written.append(scratch / f"{len(written):05d}.parquet")
            write_shard(chunk, written[-1], schema, compression)
        return [path.replace(shard_path(folder, split, i, len(written))) for i, path in enumerate(written)]
    finally:
        remove(scratch)


def shard_path(folder: PathLike, split: str, index: int, count: int) -> Path:
    """Return the path of a shard, named by the convention of the Hub."""
    return Path(folder) / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"


_REQUIRED = {
    "id": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "pixels": lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind),
    "shape": lambda kind: pa.types.is_list(kind) and pa.types.is_integer(kind.value_type),
    "bands": lambda kind: pa.types.is_list(kind) and pa.types.is_string(kind.value_type),
}
_PLAIN = ("id", "bands", "offset", "crs", "transform", "date", "label", "labels")


def _decode(content: np.ndarray, shape: list[int] | None) -> np.ndarray | None:
    if shape is None or len(shape) != 3 or None in shape or min(shape) < 1:
        return None
    return content.view("<u2").reshape(shape) if len(content) == 2 * math.prod(shape) else None


def _encode(row: ShardRow) -> bytes:
    pixels = row.pixels
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.size == 0 or len(row.bands) != len(pixels):
        raise ValueError(
            f"{row.id}: expected uint16 pixels (C, H, W) and a name for each band, found {pixels.dtype} {pixels.shape} "
            f"and {len(row.bands)} names."
        )
    return pixels.astype("<u2", copy=False).tobytes()


def _row_groups(rows: Iterable[ShardRow]) -> Iterator[list[ShardRow]]:
    group: list[ShardRow] = []
    size = 0
    for row in rows:
        if group and (size + row.pixels.nbytes > ROW_GROUP_BYTES or len(group) == ROW_GROUP_ROWS):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.pixels.nbytes
    if group:
        yield group
