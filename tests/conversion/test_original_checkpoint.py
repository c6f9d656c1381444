import contextlib
import hashlib
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _cache_assets

from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.conversion.original_checkpoint import fetch, read_original
from tests.conversion.file_server import FileServer
from tests.conversion.originals import TOY, TOY_HEADS, save, several_gpus, toy_tensors


class Call:
    """Pickles as a call, which an unsafe reader would make."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def refused(path: Path, message: str) -> None:
    """Expect `path` to be refused by `convert`, naming the file, and nothing to be written."""
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(path, path.parent / "out" / "checkpoint", **TOY_HEADS)
    assert path.name in str(error.value)
    assert not (path.parent / "out").exists()


# What is read


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("wrap", [dict, several_gpus])
def test_a_state_dict_is_read_nested_or_bare_with_or_without_the_prefix(nested, wrap, tmp_path):
    content = wrap(toy_tensors())
    original = read_original(save(tmp_path / "a.pth", {"model": content, "epoch": 3} if nested else content))
    assert original.state_dict.keys() == toy_tensors().keys()
    assert original.nested == nested
    assert original.prefix == ("module." if wrap is several_gpus else "")
    assert original.others == (("epoch",) if nested else ())


# Hostile pickles


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", "posix.system|nt.system"),
        (eval, "open('{}', 'w')", "builtins.eval"),
        (open, "{}", "io.open"),
    ],
)
@pytest.mark.parametrize("level", ["top", "model", "args"])
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(function, argument, named, level, tmp_path):
    trace = tmp_path / "trace"
    bomb = Call(function, argument.format(trace), *(["w"] if function is open else []))
    content = {"top": bomb, "model": {"model": bomb}, "args": {"model": toy_tensors(), "args": bomb}}[level]
    refused(save(tmp_path / "bomb.pth", content), f"asks for ({named}).*No code was run")
    assert not trace.exists()


def test_a_pickled_module_is_refused(tmp_path):
    refused(save(tmp_path / "module.pth", torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear")


def test_a_pickle_that_asks_for_the_memory_of_a_data_centre_is_refused(tmp_path):
    refused(save(tmp_path / "bomb.pth", {"model": Call(bytearray, 10**14)}), "is damaged, or holds more than tensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "expected a state dict.*found a list"),
        ({}, "expected a state dict.*found an empty one"),
        ({"model": 3}, "expected a state dict.*found a int"),
        ({"model": {"norm.weight": [1.0]}}, "expected tensors by name, found a list under 'norm.weight'"),
        ({"model": {0: torch.ones(1)}}, "expected tensors by name"),
    ],
)
def test_another_layout_is_refused(content, message, tmp_path):
    refused(save(tmp_path / "a.pth", content), message)


# Hostile files


def rewritten(path: Path, rename=lambda name: name, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(TOY) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(rename(entry.filename), source.read(entry))
    return path


def test_a_rewritten_zip_of_the_same_entries_is_read(tmp_path):
    assert read_original(rewritten(tmp_path / "a.pth")).state_dict.keys() == toy_tensors().keys()


def test_compressed_entries_which_may_be_bombs_are_refused(tmp_path):
    refused(rewritten(tmp_path / "a.pth", compression=zipfile.ZIP_DEFLATED), "uncompressed entries of one folder")


def test_entries_that_would_leave_their_folder_are_refused(tmp_path):
    def rename(name):
        return name.replace("/version", "/../../version")

    refused(rewritten(tmp_path / "a.pth", rename), r"found '\w+/\.\./\.\./version'")


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("photos/cat.jpg", b"meow")
    refused(tmp_path / "a.pth", "expected a `data.pkl` in the zip")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", random.Random(0).randbytes(5000), pickle.dumps({"model": {}}), b"PK\x03\x04" * 9],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_other_file_is_refused(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refused(path, "is not a checkpoint|is not a safetensors file")


def test_damaged_copies_of_a_checkpoint_are_refused_or_read_without_harm(tmp_path):
    whole = TOY.read_bytes()
    chance = random.Random(1)
    path = tmp_path / "damaged.pth"
    for trial in range(60):
        if trial % 2:
            damaged = whole[: chance.randrange(len(whole))]
        else:
            damaged = bytearray(whole)
            for _ in range(20):  # most of them in the pickle, which stands first
                damaged[chance.randrange(20_000)] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):  # and nothing else
            read_original(path)


def test_a_legacy_pickle_is_refused_with_the_reason(tmp_path):
    torch.save({"model": toy_tensors()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", r"expected a zip written by `torch.save`")


def test_a_source_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth, found nothing"):
        fetch(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        fetch(tmp_path)


# Damaged tensors


def altered(tmp_path: Path, name: str, value: torch.Tensor | None, new_name: str | None = None) -> Path:
    tensors = toy_tensors()
    old = tensors.pop(name)
    if value is not None or new_name:
        tensors[new_name or name] = old if value is None else value
    return save(tmp_path / "altered.pth", {"model": tensors})


NAMES = list(toy_tensors())


@pytest.mark.parametrize("name", NAMES[:7] + NAMES[7::20])
def test_a_missing_renamed_misshapen_or_nan_tensor_is_named(name, tmp_path):
    tensor = toy_tensors()[name]
    spoiled = tensor.clone()
    spoiled.view(-1)[0] = torch.nan
    refused(altered(tmp_path, name, None), name)
    refused(altered(tmp_path, name, None, f"{name}_ema"), name)
    refused(altered(tmp_path, name, torch.cat([tensor, tensor], dim=-1)), name)
    refused(altered(tmp_path, name, tensor[None]), name)
    refused(altered(tmp_path, name, spoiled), f"{name}: holds NaN or infinity")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(1, 16, 48), "plain floats that the file holds"),
        (torch.zeros(1, 16, 48, device="meta"), "plain floats that the file holds"),
        (torch.zeros(1, 16, 48).to_sparse(), "plain floats that the file holds"),
        (torch.zeros(1, 16, 48, dtype=torch.int64), "plain floats that the file holds, found int64"),
        (torch.zeros(1).expand(1, 10**12, 48), "expected shape|pos_embed_spatial"),
        (torch.full((1, 16, 48), torch.inf), "holds NaN or infinity"),
    ],
)
def test_a_tensor_that_is_not_what_it_claims_is_refused(value, message, tmp_path):
    refused(altered(tmp_path, "pos_embed_spatial", value), message)


def test_a_layer_number_out_of_reach_does_not_build_a_network_of_that_depth(tmp_path):
    path = altered(tmp_path, "blocks.2.norm1.bias", None, "blocks.99999999999.norm1.bias")
    refused(path, r"blocks\.2\.norm1\.bias: missing")


def test_one_more_tensor_is_left_over_and_refused(tmp_path):
    tensors = toy_tensors() | {"cls_token": torch.zeros(1, 1, 48)}
    refused(save(tmp_path / "more.pth", {"model": tensors}), "cls_token: left over")


def test_a_joint_position_is_refused_with_the_reason(tmp_path):
    tensors = toy_tensors() | {"pos_embed": torch.zeros(1, 64, 48)}
    refused(
        save(tmp_path / "classifier.pth", {"model": tensors}),
        r"joint `pos_embed` of shape \(1, 64, 48\).*cannot be split",
    )


# URLs


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between retries
    with FileServer({"/records/1/files/SpectralGPT+.pth": TOY.read_bytes()}) as server:
        yield server


PATH = "/records/1/files/SpectralGPT%2B.pth"


def test_a_url_is_downloaded_once_under_its_own_name(server):
    path = fetch(f"{server.url}{PATH}?download=1")
    assert path.name == "SpectralGPT+.pth"
    assert path.read_bytes() == TOY.read_bytes()
    requests = len(server.ranges)
    assert fetch(f"{server.url}{PATH}?download=1") == path
    assert len(server.ranges) == requests + 1  # for the headers


def test_a_checkpoint_is_converted_from_a_url(server, tmp_path):
    digest = hashlib.sha256(TOY.read_bytes()).hexdigest()
    folder = convert_checkpoint(f"{server.url}{PATH}?download=1#sha256={digest}", tmp_path / "out", **TOY_HEADS)
    assert '"url": "http://127.0.0.1/records' in (folder / "conversion.json").read_text()


def test_a_download_goes_on_where_it_stopped(server):
    server.drop_after = 700_000
    with pytest.raises(ConnectionError, match="Run again to resume where it stopped"):
        fetch(f"{server.url}{PATH}")
    server.drop_after = None
    assert fetch(f"{server.url}{PATH}").read_bytes() == TOY.read_bytes()
    assert server.ranges[-1] == "bytes=700000-"


def test_a_server_without_ranges_sends_all_again(server):
    server.drop_after = 700_000
    with pytest.raises(ConnectionError):
        fetch(f"{server.url}{PATH}")
    server.drop_after, server.supports_ranges = None, False
    assert fetch(f"{server.url}{PATH}").read_bytes() == TOY.read_bytes()


def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_part(server):
    server.drop_after = 700_000
    with pytest.raises(ConnectionError):
        fetch(f"{server.url}{PATH}")
    server.drop_after = None
    server.files["/records/1/files/SpectralGPT+.pth"] = new = b"x" * len(TOY.read_bytes())
    assert fetch(f"{server.url}{PATH}").read_bytes() == new


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server, status):
    server.failures = [status, status]
    assert fetch(f"{server.url}{PATH}").read_bytes() == TOY.read_bytes()


def test_a_missing_file_is_said(server):
    with pytest.raises(ConnectionError, match="404"):
        fetch(f"{server.url}/records/1/files/other.pth")


@pytest.mark.parametrize("fragment", ["#sha256=" + "0" * 64, "#md5=" + "0" * 32])
def test_a_wrong_checksum_is_refused_and_the_file_removed(server, fragment, tmp_path):
    with pytest.raises(ValueError, match=r"expected the (sha256|md5) 0000"):
        fetch(f"{server.url}{PATH}{fragment}")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_checksum_that_the_server_states_is_checked(server):
    server.etag = '"md5:' + "0" * 32 + '"'
    with pytest.raises(ValueError, match="expected the md5 0000"):
        fetch(f"{server.url}{PATH}")


@pytest.mark.parametrize("path", ["/", "/..", "/a/%2e%2e"])
def test_a_url_without_a_file_name_is_refused(server, path):
    with pytest.raises(ValueError, match="ends with the name of a file"):
        fetch(f"{server.url}{path}")


def test_a_file_name_with_a_path_in_it_does_not_leave_the_cache(server, tmp_path):
    server.files["/a/../../../evil.pth"] = b"1"
    path = fetch(f"{server.url}/a/%2e%2e%2f%2e%2e%2f%2e%2e%2fevil.pth")
    assert path.name == "evil.pth"
    assert (tmp_path / "cache") in path.parents
