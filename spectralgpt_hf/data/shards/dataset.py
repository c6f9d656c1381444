"""Open shards as a `datasets.Dataset` with decoded pixels, for fine-tuning and probes."""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypedDict

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets.features.features import register_feature

from ..readers.common import PathLike
from .format import ShardFile, decode_rows, find_shards


def load_shards(folder: PathLike, split: str = "train") -> Dataset:
    """Open prepared shards as the readers open datasets.

    Rows hold `id`, `pixels` (C, H, W) uint16, which are 0 in all bands where there is no data, `bands`, `label` or
    `labels` if the shards have labels, and their other columns. The pixels are read when a row is accessed, all other
    columns at once. Reading rows in the order of the shards is fastest, because each row group is then decoded once.

    Args:
        folder: Folder of shards, one shard or a pattern, as in `find_shards`.
        split: "train", "validation" or "test".

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: If a shard is damaged or incomplete.
    """
    tables, references = [], []
    for path in find_shards(folder, split):
        with ShardFile(path) as shard:
            names = [name for name in shard.columns if name not in ("pixels", "shape")]
            tables += [shard.read_row_group(i, names) for i in range(shard.num_row_groups)]
            references += [{"path": str(path), "row": row} for row in range(shard.num_rows)]
    table = pa.concat_tables(tables).combine_chunks()
    features = Features.from_arrow_schema(table.schema)
    features = Features({"id": features["id"], "pixels": ShardImage(), **features})
    table = table.append_column("pixels", pa.array(references, ShardImage()()))
    return Dataset(table.select(list(features)).cast(features.arrow_schema))


class ShardReference(TypedDict):
    """The shard of an image, and the number of its row."""

    path: str
    row: int


@dataclass
class ShardImage:
    """Column type: pixels (C, H, W), uint16, of a row of a shard, which are read when the row is accessed.

    Attributes:
        decode: Whether rows hold pixels, or a `ShardReference`.
    """

    decode: bool = True
    _type: str = field(default="ShardImage", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """Return the Arrow type."""
        return pa.struct({"path": pa.string(), "row": pa.int64()})

    def encode_example(self, value: ShardReference) -> ShardReference:
        """Return the reference to store."""
        return {"path": value["path"], "row": value["row"]}

    def decode_example(self, value: ShardReference, token_per_repo_id: object = None) -> np.ndarray:
        """Read the pixels.

        Raises:
            FileNotFoundError: If the shard no longer exists.
            ValueError: If the shard or the row is damaged.
        """
        path, row = value["path"], value["row"]
        shard = _open(path)
        group = int(np.searchsorted(shard.row_group_offsets, row, side="right")) - 1
        pixels = _read(path, group)[row - int(shard.row_group_offsets[group])]
        if pixels is None:
            raise ValueError(f"{path}: row {row} is corrupt: the number of its pixels does not match its shape.")
        return pixels


@lru_cache(maxsize=64)
def _open(path: str) -> ShardFile:
    return ShardFile(path)


@lru_cache(maxsize=2)
def _read(path: str, group: int) -> list[np.ndarray | None]:
    return decode_rows(_open(path).read_row_group(group, ["pixels", "shape"]))


with warnings.catch_warnings():
    # `register_feature` warns that it is experimental, which users of this package need not know.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(ShardImage, "ShardImage")
