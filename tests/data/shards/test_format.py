import json
import pickle
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, load_dataset

from spectralgpt_hf.data import load_shards
from spectralgpt_hf.data.shards.format import (
    ShardFile,
    ShardRow,
    decode_rows,
    find_shards,
    shard_schema,
    write_shard,
    write_shards,
)
from spectralgpt_hf.data.shards.histograms import Histograms


BANDS = ["B2", "B3", "B4"]


def make_rows(count, side=32, **columns):
    """Return rows of noise, which no compression shrinks, of which every third is smaller."""
    generator = np.random.default_rng(0)
    sides = [side // 2 if i % 3 == 2 else side for i in range(count)]
    images = [generator.integers(1, 2**16, (3, side, side), dtype=np.uint16) for side in sides]
    return [ShardRow(f"row{i}", image, BANDS, **columns) for i, image in enumerate(images)]


def rows_as_table(rows, **replaced):
    columns = {
        "id": [row.id for row in rows],
        "pixels": [row.pixels.tobytes() for row in rows],
        "shape": [list(row.pixels.shape) for row in rows],
        "bands": [row.bands for row in rows],
    }
    return pa.table({**columns, **replaced})


def test_pixels_come_back_without_being_copied(tmp_path):
    rows = make_rows(150)
    paths = write_shards(rows, tmp_path, rows_per_shard=70)
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert find_shards(tmp_path) == find_shards(f"{tmp_path}/data/*.parquet") == paths
    read = []
    for path in paths:
        with ShardFile(path) as shard:
            assert shard.band_lists() == {("B2", "B3", "B4")}
            for i in range(shard.num_row_groups):
                table = shard.read_row_group(i, ["pixels", "shape"])
                assert len(table) == shard.row_group_offsets[i + 1] - shard.row_group_offsets[i]
                read += decode_rows(table)
            assert shard.row_group_offsets[-1] == shard.num_rows
    assert all((ours == row.pixels).all() for ours, row in zip(read, rows, strict=True))
    content = table["pixels"].chunk(0).buffers()[2]
    assert content.address <= read[-1].ctypes.data < content.address + content.size


def test_row_groups_are_small(tmp_path):
    (path,) = write_shards(make_rows(12, side=512), tmp_path)
    with ShardFile(path) as shard:
        assert np.diff(shard.row_group_offsets).max() <= 4  # of 1.5 MiB each


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_every_compression_reads_the_same(tmp_path, compression):
    rows = make_rows(3)
    (path,) = write_shards(rows, tmp_path, compression=compression)
    with ShardFile(path) as shard:
        assert (decode_rows(shard.read_row_group(0))[2] == rows[2].pixels).all()


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_shards_with_its_own_means(tmp_path, streaming):
    rows = [*make_rows(3, label=1, crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0), offset=(-1000,) * 3)]
    write_shards(rows, tmp_path / "shards", class_names=["water", "land"])
    files = {"train": f"{tmp_path}/shards/data/train-*.parquet"}
    dataset = load_dataset("parquet", data_files=files, streaming=streaming, cache_dir=tmp_path / "cache")["train"]
    row = next(iter(dataset))
    assert (np.frombuffer(row["pixels"], "<u2").reshape(row["shape"]) == rows[0].pixels).all()
    assert (row["bands"], row["crs"], row["offset"], row["date"]) == (BANDS, "EPSG:32632", [-1000] * 3, None)
    assert dataset.features["label"] == ClassLabel(names=["water", "land"])


def test_load_shards_gives_rows_as_the_readers_do(tmp_path):
    rows = make_rows(150, labels=[0, 2])
    write_shards(rows, tmp_path, "validation", rows_per_shard=100, class_names=["a", "b", "c"], multi_label=True)
    dataset = pickle.loads(pickle.dumps(load_shards(tmp_path, "validation")))
    assert dataset.features["labels"].feature.names == ["a", "b", "c"]
    for i in (149, 0, 101, 64):
        row = dataset[i]
        assert (row["id"], row["bands"], row["labels"]) == (rows[i].id, BANDS, [0, 2])
        assert row["pixels"].dtype == np.uint16
        assert (row["pixels"] == rows[i].pixels).all()
    assert dataset.shuffle(seed=0)["id"][0] != "row0"
    assert (dataset.with_format("torch")[2]["pixels"].numpy() == rows[2].pixels).all()


def test_corrupt_rows_are_told_from_good_ones(tmp_path):
    rows = make_rows(6)
    pixels = [row.pixels.tobytes() for row in rows]
    shapes = [[3, 32, 32], [3, 0, 5], [32, 32], [3, 32, 32], None, [3, 16, 16]]
    table = rows_as_table(rows, pixels=[pixels[0][:-1], pixels[1], pixels[2], None, *pixels[4:]], shape=shapes)
    assert [row is None for row in decode_rows(table)] == [True] * 5 + [False]
    pq.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match=r"train-0\.parquet: row 1 is corrupt"):
        load_shards(tmp_path / "train-0.parquet")[1]


def test_a_damaged_shard_is_named(tmp_path):
    (path,) = write_shards(make_rows(70), tmp_path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: cannot be read as a Parquet shard"):
        ShardFile(path)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: row group 0 cannot be read"):
        ShardFile(path).read_row_group(0)
    with pytest.raises(FileNotFoundError, match="no such shard"):
        ShardFile(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize(("column", "values"), [("bands", ["B2", "B2"]), ("pixels", [1, 2]), ("shape", None)])
def test_a_table_that_is_no_shard_is_refused(tmp_path, column, values):
    table = rows_as_table(make_rows(2)).drop(column)
    table = table if values is None else table.append_column(column, [values])
    pq.write_table(table, tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=rf"table\.parquet: expected the columns of a shard .*; {column} missing or"):
        ShardFile(tmp_path / "table.parquet")


def test_missing_shards_are_noticed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none\. Make them with `spectralgpt prepare"):
        find_shards(tmp_path)
    paths = write_shards(make_rows(5), tmp_path, rows_per_shard=2)
    with pytest.raises(FileNotFoundError, match="expected shards"):
        find_shards(tmp_path, "test")
    paths[1].unlink()
    with pytest.raises(ValueError, match="expected 3 shards of the split train, found 2"):
        find_shards(tmp_path)
    with pytest.raises(ValueError, match="without shards so far, got train"):
        write_shards(make_rows(1), tmp_path)


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"shard\.parquet: cannot be written"):
            write_shard(make_rows(200), tmp_path / "shard.parquet", shard_schema())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_rows_of_another_type_are_refused(tmp_path):
    row = ShardRow("a", np.zeros((3, 4, 4), np.float32), BANDS)
    with pytest.raises(ValueError, match=r"a: expected uint16 pixels \(C, H, W\) and a name for each band, found f"):
        write_shards([row], tmp_path)
    assert not list(tmp_path.rglob("*.p*"))


def test_statistics_are_those_of_the_valid_pixels(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 3000, (4, 3, 20, 20), dtype=np.uint16)
    images[:, :, :5, :5] = 0
    images[:, 0, 5:, 5:] = 0  # a zero in one band is data
    histograms, merged = Histograms(), Histograms()
    histograms.add(BANDS, images[0])
    for image in images[1:]:
        merged.add(BANDS, image)
    histograms.save(tmp_path / "part.npz", {"rows": 1})
    assert merged.merge(tmp_path / "part.npz") == {"rows": 1}
    statistics = json.loads(json.dumps(merged.statistics()))
    values = images.transpose(1, 0, 2, 3)[:, images.any(1)]
    assert statistics["bands"] == BANDS
    assert statistics["pixels"] == [values.shape[1]] * 3
    for name, expected in {
        "minimum": values.min(1),
        "maximum": values.max(1),
        "mean": values.mean(1),
        "std": values.std(1),
        "percentile_1": np.percentile(values, 1, axis=1),
        "percentile_50": np.median(values, axis=1),
        "percentile_98": np.percentile(values, 98, axis=1),
    }.items():
        np.testing.assert_allclose(statistics[name], expected, rtol=1e-12, err_msg=name)
