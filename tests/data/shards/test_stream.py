from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.data.shards.stream import ShardStream


BANDS = ("B2", "B3", "B4", "B8")


def row(number: int, size: tuple[int, int] = (16, 16), bands=BANDS) -> ShardRow:
    """A sample whose pixels encode its number and band."""
    pixels = (
        np.full((len(bands), *size), number + 1, np.uint16)
        + 1000 * np.arange(len(bands), dtype=np.uint16)[:, None, None]
    )
    return ShardRow(id=str(number), pixels=pixels, bands=bands)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(map(row, range(300)), folder, rows_per_shard=100)
    return folder


def seen(stream: ShardStream, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch["ids"].tolist() for batch in stream.batches(epoch, start)]


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own(shards):
    stream = ShardStream(shards, BANDS, 10, seed=3)
    first, second = seen(stream), seen(stream, epoch=1)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(300))
    assert first != second
    assert first == seen(ShardStream(shards, BANDS, 10, seed=3, num_workers=1))
    assert first != seen(ShardStream(shards, BANDS, 10, seed=4))


def test_a_batch_is_drawn_from_all_over_the_data(shards):
    ids = np.concatenate([ShardStream(shards, BANDS, 20).batch_ids(epoch) for epoch in range(20)])
    # Of 20 samples out of 300, drawn independently of their position, 16 are in ten different tenths on average 8.9.
    tenths = np.mean([len(set(batch // 30)) for batch in ids])
    assert tenths > 8


def test_pixels_belong_to_the_sample_that_the_number_names(shards):
    for batch in ShardStream(shards, ("B8", "B2"), 7).batches():
        expected = batch["ids"][:, None] + 1 + np.array([3000, 0])
        assert (batch["images"].numpy() == expected.numpy()[:, :, None, None]).all()
        assert "valid" not in batch
        assert batch["skipped"] == 0


def test_two_processes_share_the_batches_of_one(shards):
    whole = seen(ShardStream(shards, BANDS, 8))
    halves = [seen(ShardStream(shards, BANDS, 4, num_processes=2, process_index=index)) for index in range(2)]
    assert whole == [left + right for left, right in zip(*halves)]


def test_a_stream_goes_on_at_any_position(shards):
    stream = ShardStream(shards, BANDS, 8)
    assert len(stream) == 37
    endless = stream.endless()
    everything = [next(endless) for _ in range(80)]
    for position in (0, 5, 36, 37, 75):
        epoch, batch = next(stream.endless(position))
        assert epoch == everything[position][0]
        assert batch["ids"].tolist() == everything[position][1]["ids"].tolist()


def test_images_of_different_sizes_share_a_batch(tmp_path):
    write_shards([row(0, (8, 24)), row(1, (16, 8))], tmp_path)
    (batch,) = ShardStream(tmp_path, BANDS, 2, shuffle=False).batches()
    assert batch["images"].shape == (2, 4, 16, 24)
    assert batch["extent"].tolist() == [[8, 24], [16, 8]]
    assert (batch["images"][0, :, 8:] == 0).all()
    assert (batch["images"][1, 0, :, :8] == 2).all()


def test_pixels_that_are_zero_in_all_bands_are_no_data(tmp_path):
    sample = row(0)
    sample.pixels[:, :4] = 0
    sample.pixels[0, 10] = 0  # data: the other bands are not
    write_shards([sample, row(1)], tmp_path)
    (batch,) = ShardStream(tmp_path, BANDS, 2, shuffle=False).batches()
    assert batch["valid"].sum(dim=(1, 2)).tolist() == [12 * 16, 16 * 16]


def test_rows_that_cannot_be_read_are_counted_and_have_no_data(tmp_path, caplog):
    (path,) = write_shards([row(i) for i in range(4)], tmp_path)
    table = pq.read_table(path)
    pixels = table["pixels"].to_pylist()
    pixels[1] = pixels[1][:-2]
    pq.write_table(table.set_column(table.column_names.index("pixels"), "pixels", [pixels]), path)
    (batch,) = ShardStream(tmp_path, BANDS, 4, shuffle=False).batches()
    assert batch["skipped"] == 1
    assert batch["valid"].flatten(1).all(dim=1).tolist() == [True, False, True, True]
    assert "row 1 of row group 0 is corrupt" in caplog.text


def test_a_pixel_has_data_if_any_band_of_the_file_does(tmp_path):
    pixels = np.full((len(BANDS), 16, 16), 500, np.uint16)
    pixels[:2, :8] = 0
    pixels[:, 0, 0] = 0
    write_shards([ShardRow("a", pixels, BANDS)], tmp_path)
    (batch,) = ShardStream(tmp_path, BANDS[:2], 1).batches()
    expected = torch.ones(1, 16, 16, dtype=torch.bool)
    expected[0, 0, 0] = False
    assert torch.equal(batch["valid"], expected)


def test_every_row_must_have_the_bands(tmp_path):
    rows = [ShardRow(str(i), np.ones((4 - i, 16, 16), np.uint16), BANDS[: 4 - i]) for i in range(2)]
    write_shards(rows, tmp_path)
    with pytest.raises(ValueError, match=f"in every row, found .*: {BANDS[3]} missing"):
        ShardStream(tmp_path, BANDS, 1)


def test_damaged_bytes_in_a_shard_are_skipped_and_named(tmp_path, caplog):
    rng = np.random.default_rng(0)
    rows = [ShardRow(str(i), rng.integers(1, 9999, (4, 256, 256)).astype(np.uint16), BANDS) for i in range(16)]
    (path,) = write_shards(rows, tmp_path)
    content = bytearray(path.read_bytes())
    content[200_000:200_100] = bytes(100)
    path.write_bytes(content)
    batches = list(ShardStream(tmp_path, BANDS, 4, shuffle=False).batches())
    assert sum(batch["skipped"] for batch in batches) == 8  # one row group of two
    assert path.name in caplog.text


def test_what_cannot_be_trained_on_is_refused_at_once(shards, tmp_path):
    with pytest.raises(ValueError, match="B11 missing"):
        ShardStream(shards, ("B2", "B11"), 4)
    with pytest.raises(ValueError, match="do not fill a batch of 200 on 2 processes"):
        ShardStream(shards, BANDS, 200, num_processes=2)
    with pytest.raises(FileNotFoundError, match="spectralgpt prepare"):
        ShardStream(tmp_path, BANDS, 4)
    (path,) = write_shards([row(0)], tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        ShardStream(tmp_path, BANDS, 1)
