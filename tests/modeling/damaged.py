"""Two hundred damaged inputs, and how reading each of them ends."""

import json
import resource
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import open_raster, read_raster
from tests.modeling.products import file_name, write_geotiff, write_safe, zip_folder


class Damaged(NamedTuple):
    kind: str
    source: Any
    name: str
    """What the message must contain."""
    must_fail: bool = True


def damaged_inputs(folder: Path, seed: int = 0) -> Iterator[Damaged]:
    """Write and yield the inputs; the same ones for the same seed."""
    random = np.random.default_rng(seed)
    pixels = random.integers(200, 4000, (12, 40, 48)).astype(np.uint16)
    names = [file_name(band) for band in L2A_BANDS]
    whole = folder / "whole.tif"

    def write(array=pixels, path=whole, names=names, **profile):
        return write_geotiff(path, array, names=names, **profile).read_bytes()

    def put(kind, content, suffix=".tif", must_fail=True):
        put.count += 1
        path = folder / f"{kind.replace(' ', '_')}_{put.count}{suffix}"
        path.write_bytes(content)
        return Damaged(kind, path, path.name, must_fail)

    put.count = 0

    layouts = [
        write(),
        write(compress="deflate"),
        write(compress="lzw", interleave="pixel"),
        write(tiled=True, blockxsize=16, blockysize=16, compress="deflate", predictor=2),
        write(tiled=True, blockxsize=16, blockysize=16, compress="zstd", bigtiff="yes"),
        write(driver="COG", compress="deflate"),
    ]
    jp2 = write(pixels, folder / "whole.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")

    for content in [*layouts, jp2]:
        for share in (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97):
            yield put("truncated", content[: int(share * len(content))])
    for suffix in (".tif", ".jp2", ".npy", ".zip", ".json", ""):
        yield put("zero bytes", b"", suffix)
        yield put("zeros", bytes(4096), suffix)
    for content in [*layouts, jp2]:
        yield put("wrong magic", b"\x89XYZ" + content[4:])
        yield put("noise", random.bytes(2000))
        yield put("noise behind a header", content[:16] + random.bytes(2000))
    for side in (15_000, 100_000, 2**31 - 1):
        for content in layouts:
            # Two sides of 2^31 - 1 would be refused for their product alone.
            size = {256: side, 257: side if side < 2**31 - 1 else 3}
            yield put("huge declared size", _with_tags(content, {**size, 278: size[257]}))
            yield put("huge declared blocks", _with_tags(content, {**size, 322: side & ~15, 323: 65520}))
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            yield put(f"all {value}", write(np.full(pixels.shape, value, dtype)))
            some = pixels.astype(dtype)
            some[:, 3:30:2, 5] = value
            some[2, 20:, :] = value
            yield put(f"some {value}", write(some), must_fail=False)
    for nodata in (0, -9999, 65535):
        yield put("all nodata", write(np.full(pixels.shape, nodata, np.int32), nodata=nodata))
    yield put("all zero", write(0 * pixels))
    for count in (1, 2, 11, 14, 300):
        yield put(f"{count} bands", write(np.resize(pixels, (count, 40, 48)), names=None))
    yield put("1 named band", write(pixels[:1], names=["B02"]))
    for level in (-32768, -3000, -1):
        negative = np.full(pixels.shape, level, np.int16) + random.integers(0, 3, pixels.shape).astype(np.int16)
        yield put("negative values", write(negative), must_fail=False)
    yield put("complex numbers", write(pixels.astype(np.complex64)))
    for text in ("", "hello\n", "<html></html>", "{}", "[1, 2]", "ncols many\n", "II*", "a,b\n1,2\n", "x" * 100_000):
        yield put("text", text.encode() or b"\n")
    yield put("text", b"{" * 100_000, ".json")
    yield put("text", b'{"type": "Feature", "assets": {"B02": {"href": "/no/such/file.tif"}}}', ".json")
    for name in ("missing.tif", "missing.SAFE", "missing.npy", "no/such/folder"):
        yield Damaged("missing", folder / name, name)
    for name in ("empty", "without_bands", "truncated_bands", "text_bands", "bands_of_other_sizes"):
        inner = folder / name
        inner.mkdir()
        if name == "without_bands":
            (inner / "readme.txt").write_text("nothing here")
            (inner / "image.tif").write_bytes(layouts[0])
        if name == "truncated_bands":
            for band in names:
                content = write(pixels[:1], names=None)
                (inner / f"x_{band}.tif").write_bytes(content[: len(content) - 1000])
        if name == "text_bands":
            for band in names:
                (inner / f"x_{band}.tif").write_text("text")
        if name == "bands_of_other_sizes":
            for index, band in enumerate(names):
                write(pixels[:1, : 20 + index], inner / f"x_{band}.tif", names=None, crs=None)
        yield Damaged(f"folder, {name}", inner, name)

    np.save(folder / "whole.npy", pixels)
    array = (folder / "whole.npy").read_bytes()
    yield put("truncated array", array[:500], ".npy")
    yield put("truncated array", array[:7], ".npy")
    yield put("huge array", array.replace(b"(12, 40, 48)", b"(12,9**9,99)"[:12]), ".npy")
    yield put("huge array", array.replace(b"(12, 40, 48), }", b"(12,99999,999)}"), ".npy")
    np.save(folder / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    yield put("array of objects", (folder / "objects.npy").read_bytes(), ".npy")
    np.save(folder / "flat.npy", pixels[0])
    yield put("flat array", (folder / "flat.npy").read_bytes(), ".npy")

    for level in ("L1C", "L2A"):
        safe = write_safe(folder / level, level, [-1000] * 13)
        archive = zip_folder(safe).read_bytes()
        for share in (0.1, 0.5, 0.99):
            yield put("truncated zip", archive[: int(share * len(archive))], ".zip")
        for image in sorted(safe.rglob("*_B04*.jp2"))[:1]:
            image.write_bytes(image.read_bytes()[:200])
        yield Damaged("safe with a truncated band", safe, safe.name)
        (safe / f"MTD_MSI{level}.xml").write_text("<xml>")
        yield Damaged("safe with damaged metadata", safe, safe.name)
    empty = folder / "empty.SAFE.zip"
    zipfile.ZipFile(empty, "w").close()
    yield Damaged("empty zip", empty, empty.name)

    for content in (b"", b"text", layouts[0][:600], jp2[:600], random.bytes(100)):
        yield Damaged("bytes", content, f"raster of {len(content)} bytes")


def outcome(damaged: Damaged) -> dict[str, Any]:
    """Read an input whole, by a window and through the processor, and return the outcome of each."""
    ends = {}
    for way, read in {"whole": _read_whole, "window": _read_window, "processor": _process}.items():
        try:
            finite = read(damaged.source)
            ends[way] = "read" if finite else "not finite"
        except (ValueError, FileNotFoundError) as error:
            ends[way] = "refused" if damaged.name in str(error) else f"refused without its name: {error}"
        except BaseException as error:
            ends[way] = f"{type(error).__name__}: {error}"
    return {"kind": damaged.kind, "name": damaged.name, "must_fail": damaged.must_fail, **ends}


def _names_of(source: Any) -> dict[str, Any]:
    """An array file names no bands."""
    return {"band_names": L2A_BANDS} if str(source).endswith(".npy") else {}


def _read_whole(source: Any) -> bool:
    raster = read_raster(source, bands=L2A_BANDS, **_names_of(source))
    return bool(np.isfinite(raster.pixels[:, raster.valid]).all())


def _read_window(source: Any) -> bool:
    with open_raster(source, bands=L2A_BANDS, **_names_of(source)) as reader:
        raster = reader.read((0, 0, min(8, reader.width), min(8, reader.height)))
    return bool(np.isfinite(raster.pixels[:, raster.valid]).all())


def _process(source: Any) -> bool:
    return bool(SpectralGPTImageProcessor()(source, return_tensors="pt")["pixel_values"].isfinite().all())


def _with_tags(content: bytes, values: dict[int, int]) -> bytes:
    """Overwrite numbers in the first directory of a little-endian TIFF or BigTIFF."""
    content = bytearray(content)
    big = content[2] == 43
    start = struct.unpack_from("<Q" if big else "<I", content, 8 if big else 4)[0]
    count = struct.unpack_from("<Q" if big else "<H", content, start)[0]
    size = 20 if big else 12
    for entry in range(count):
        position = start + (8 if big else 2) + entry * size
        tag = struct.unpack_from("<H", content, position)[0]
        if tag in values:
            # Type 4 is a 32-bit number.
            struct.pack_into("<HH" + ("QQ" if big else "II"), content, position, tag, 4, 1, values[tag])
    return bytes(content)


def write_outcomes(folder: Path, output: Path) -> None:
    """Write the inputs into a folder, and a line of JSON for each: what it is and how reading it ended."""
    warnings.simplefilter("ignore")
    SpectralGPTImageProcessor()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with output.open("w") as lines:
        for damaged in damaged_inputs(folder):
            result = outcome(damaged)
            result["extra_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            lines.write(json.dumps(result) + "\n")
