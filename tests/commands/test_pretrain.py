import importlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub import ModelCard
from torch.distributed.fsdp import MixedPrecisionPolicy

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.data.chip_grid import cut_chips
from spectralgpt_hf.data.shards.format import ShardFile, ShardRow, decode_rows, find_shards, write_shards
from spectralgpt_hf.files import locked
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training import run as training_run
from spectralgpt_hf.training.stages import PretrainingOptions, check_model, parse_pretraining_options, split_stages
from tests.hub.test_publish import hub, quick  # noqa: F401
from tests.sizes import SMALL


OPTIONS = ["--log_every=1", "--num_workers=2", "--mixed_precision=no", "--save_every=4", "--eval_every=1000"]
# Options of the runs with one stage. Those with a file have them there: the command line would win over the stages.
SINGLE = ["--config_overrides", json.dumps(SMALL), "--batch_size=8", "--image_size=32", "--base_learning_rate=0.3"]
STAGED = f"config_overrides: {json.dumps(SMALL)}\nbatch_size: 8\nimage_size: 32\nbase_learning_rate: 0.3\n"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    chips = [
        ShardRow(str(number), chip.pixels, chip.band_names)
        for number, chip in enumerate(cut_chips(SAMPLE, 64, bands=None))
    ]
    write_shards(chips[:56], folder, rows_per_shard=30)
    write_shards(chips[56:], folder, "validation")
    return folder


@pytest.fixture(scope="module")
def holes(shards, tmp_path_factory):
    """The same chips, half of them without data in a strip of another width each, and one without any."""
    folder = tmp_path_factory.mktemp("holes")
    for split in ("train", "validation"):
        rows = []
        for path in find_shards(shards, split):
            with ShardFile(path) as shard:
                for group in range(shard.num_row_groups):
                    table = shard.read_row_group(group)
                    rows += [
                        ShardRow(name, pixels.copy(), bands)
                        for name, pixels, bands in zip(
                            table["id"].to_pylist(), decode_rows(table), table["bands"].to_pylist()
                        )
                    ]
        for number, row in enumerate(rows):
            row.pixels[:, :, : number if number % 2 else 0] = 0
        rows[2].pixels[:] = 0
        write_shards(rows, folder, split)
    return folder


@pytest.fixture(scope="module")
def pretrain_script():
    return importlib.import_module("spectralgpt_hf.commands.pretrain")


@pytest.fixture
def pretrain(monkeypatch, pretrain_script):
    """Run the script in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        for state in (AcceleratorState, GradientState):
            state._reset_state()
        PartialState._reset_state()
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *_with_defaults(arguments)])
        pretrain_script.main()

    yield run
    signal.signal(signal.SIGTERM, handler)


def _with_defaults(arguments) -> list[str]:
    return [*OPTIONS, *([] if "--config" in arguments else SINGLE), *map(str, arguments)]


def start(processes: int, *arguments) -> subprocess.Popen:
    """Start the script; two processes with the configuration that the repository has for them."""
    config = "examples/accelerate_configs/cpu_2_processes.yaml"
    accelerate = ["-m", "accelerate.commands.launch", "--main_process_port", str(free_port()), "--config_file", config]
    command = [sys.executable, *(accelerate if processes > 1 else []), "examples/pretrain.py"]
    command += _with_defaults(arguments)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple]:
    return [(record["step"], record["loss"], record["grad_norm"]) for record in read_log(folder) if "loss" in record]


def kill_at_random(process: subprocess.Popen, folder: Path, before: int) -> int:
    """Kill all processes with SIGKILL in the middle of the run; return the last step that was logged."""
    step = random.randint(5, before - 20)
    while process.poll() is None:
        if (folder / "log.jsonl").exists() and (folder / "log.jsonl").read_text().count("grad_norm") >= step:
            break
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()
    logged = losses(folder)[-1][0]
    assert logged < before
    return logged


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_losses(pretrain, shards, tmp_path):
    run = ("--data", shards, "--steps", 60)
    pretrain(*run, "--output_dir", tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_at_random(start(1, *run, "--output_dir", killed), killed, 60)
    torch.rand(7)  # no generator's state matters
    pretrain(*run, "--output_dir", killed, "--resume", "auto")
    assert losses(killed) == losses(tmp_path / "whole")
    assert [step for step, *_ in losses(killed)] == list(range(1, 61))
    left, right = (SpectralGPTForPreTraining.from_pretrained(tmp_path / name / "model") for name in ("whole", "killed"))
    for before, after in zip(left.parameters(), right.parameters()):
        assert torch.equal(before, after)


def test_a_zscore_run_with_both_added_terms_resumes_to_the_same_losses_and_saves_mean_and_std(
    pretrain, shards, tmp_path
):
    measured = {"bands": list(L2A_BANDS), "mean": [1000.0] * 12}
    measured |= {"percentile_5": [100.0] * 12, "percentile_95": [3390.0] * 12}
    (shards / "statistics.json").write_text(json.dumps({"train": measured}))
    options = ["--data", shards, "--normalization=zscore", "--atmosphere=1", "--steps=8"]
    options += ["--contrast_weight=1", "--statistics_weight=1"]
    pretrain(*options, "--output_dir", tmp_path / "whole")
    records = [record for record in read_log(tmp_path / "whole") if "loss" in record]
    for record in records:
        terms = ("token_loss", "spectral_loss", "contrast_loss", "statistics_loss")
        assert record["loss"] == pytest.approx(sum(record[term] for term in terms), rel=1e-5)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-00000004", tmp_path / "half" / "checkpoints" / "4")
    pretrain(*options, "--output_dir", tmp_path / "half", "--resume", tmp_path / "half" / "checkpoints" / "4")
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")[4:]
    processor = SpectralGPTImageProcessor.from_pretrained(tmp_path / "whole" / "model")
    assert (processor.normalization, processor.mean["B1"], processor.std["B1"]) == ("zscore", 1000.0, 1000.0)


@pytest.mark.parametrize("weight", ["--contrast_weight", "--statistics_weight"])
def test_added_terms_are_refused_with_fsdp2_before_training(pretrain, shards, tmp_path, monkeypatch, weight):
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda _: True))
    with pytest.raises(ValueError, match="need another mode than FSDP2"):
        pretrain("--data", shards, weight, 1, "--output_dir", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_to_the_same_losses(pretrain, holes, tmp_path):
    run = ("--data", holes, "--steps", 40, "--statistics_weight", 1)
    pretrain(*run, "--output_dir", tmp_path / "one")
    process = start(2, *run, "--batch_size", 4, "--output_dir", tmp_path / "two")
    output, _ = process.communicate()
    assert "2 processes on cpu, effective batch 8" in output, output
    one, two = (np.array(losses(tmp_path / name)) for name in ("one", "two"))
    assert np.abs(one[:, 1] / two[:, 1] - 1).max() < 1e-5
    of_one, of_two = (
        [record["validation_loss"] for record in read_log(tmp_path / name) if "validation_loss" in record]
        for name in ("one", "two")
    )
    assert len(of_one) == 2
    assert of_two == pytest.approx(of_one, rel=1e-5)

    killed = tmp_path / "killed"
    kill_at_random(start(2, *run, "--batch_size", 4, "--output_dir", killed), killed, 40)
    output, _ = start(2, *run, "--batch_size", 4, "--output_dir", killed, "--resume", "auto").communicate()
    assert "2 processes on cpu" in output, output
    assert losses(killed) == losses(tmp_path / "two")


@pytest.mark.slow
def test_stages_go_on_from_each_other_and_resume_in_the_second(pretrain, shards, tmp_path):
    config = tmp_path / "stages.yaml"
    config.write_text(
        f"{STAGED}data: {shards}\nstages:\n"
        "- {image_size: 32, steps: 30}\n"
        "- {image_size: 48, steps: 10, masking: spatial, base_learning_rate: 0.1, bands: [B2, B3, B4, B5, B6, B7]}\n"
    )
    folder = tmp_path / "run"
    pretrain("--config", config, "--output_dir", folder)
    log = read_log(folder)
    assert [(record["stage"], record["step"]) for record in log if "loss" in record][29:31] == [(1, 30), (2, 31)]
    validation = [record["validation_loss"] for record in log if "validation_loss" in record]
    assert len(validation) == 4
    assert validation[1] < 0.5 * validation[0]
    model = SpectralGPTForPreTraining.from_pretrained(folder / "model")
    assert (model.config.image_size, model.config.num_channels, model.config.masking) == (48, 6, "spatial")
    processor = SpectralGPTImageProcessor.from_pretrained(folder / "model")
    assert processor.bands == model.config.bands
    assert torch.isfinite(model(**processor(SAMPLE)).loss)
    assert "48 px, spatial masking" in (folder / "model" / "README.md").read_text()
    assert len(list((folder / "pictures").glob("*.png"))) == 2  # six bands have no false colours

    # As if killed after step 36, of which there is the newest checkpoint.
    (folder / "checkpoints" / "step-00000040").rename(tmp_path / "gone")
    pretrain("--config", config, "--output_dir", folder, "--resume", "auto")
    assert [(r["step"], r.get("loss")) for r in read_log(folder)] == [(r["step"], r.get("loss")) for r in log]


@pytest.mark.slow
def test_a_second_stage_starts_better_from_interpolated_positions(pretrain, shards, tmp_path):
    pretrain("--data", shards, "--steps", 60, "--output_dir", tmp_path / "stage1")
    first = {}
    for positions in ("interpolate", "reinitialise"):
        folder = tmp_path / positions
        options = ("--model_name_or_path", tmp_path / "stage1" / "model", "--image_size", 64, "--positions", positions)
        pretrain("--data", shards, "--steps", 1, "--output_dir", folder, *options)
        first[positions] = read_log(folder)[0]["validation_loss"]
    assert first["interpolate"] < first["reinitialise"]


def test_a_second_run_in_the_folder_of_the_first_is_refused(pretrain, shards, tmp_path):
    run = ("--data", shards, "--steps", 2, "--output_dir", tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(OSError, match=rf"run: process {os.getpid()} on .* writes it already"):
        pretrain(*run)
    assert not (tmp_path / "run").exists()
    pretrain(*run)


@pytest.mark.slow  # new processes import everything
def test_of_two_processes_in_one_folder_the_second_says_who_writes_and_the_first_ends_as_if_alone(
    pretrain, shards, tmp_path
):
    run = ("--data", shards, "--steps", 30, "--output_dir")
    pretrain(*run, tmp_path / "alone")
    first = start(1, *run, tmp_path / "run")
    while first.poll() is None and not (tmp_path / "run" / "log.jsonl").exists():
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # works on it until the others have come and gone
    for resume in ("no", "auto"):
        second = start(1, *run, tmp_path / "run", "--resume", resume)
        output, _ = second.communicate()
        assert second.returncode != 0
        assert re.search(rf"run: process {first.pid} on .* writes it already\. Wait until it ends, or choose", output)
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate()
    assert first.returncode == 0, output
    assert losses(tmp_path / "run") == losses(tmp_path / "alone")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "alone")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob(".run*"))


# Run in the child: its files cannot grow beyond 100 kB, as on a full disk.
FULL = (
    "import resource, runpy, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.slow  # new processes import everything
def test_a_full_disk_ends_a_run_with_its_checkpoints_whole(pretrain, shards, tmp_path):
    run = ("--data", shards, "--steps", 8, "--output_dir", tmp_path)
    pretrain(*run)
    expected = losses(tmp_path)
    for name in ("checkpoints/step-00000008", "stage-1", "model"):
        shutil.rmtree(tmp_path / name)
    before = (tmp_path / "checkpoints" / "step-00000004" / "model.safetensors").read_bytes()
    command = [sys.executable, "-c", FULL, "examples/pretrain.py", *_with_defaults((*run, "--resume", "auto"))]
    process = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert process.returncode != 0
    assert re.search(r"OSError: .*step-00000008: cannot be written .*File too large.* Free space", process.stderr)
    assert (tmp_path / "checkpoints" / "step-00000004" / "model.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert not (tmp_path / "model").exists()
    pretrain(*run, "--resume", "auto")
    assert losses(tmp_path) == expected


def test_a_run_that_is_told_to_end_saves_first(pretrain, shards, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run = ("--data", shards, "--steps", 5000, "--save_every", 5000, "--output_dir", folder)
    run += ("--report_to", "tensorboard")
    forward, steps = SpectralGPTForPreTraining.forward, []

    def told_in_the_third_step(self, *args, **kwargs):
        if self.training:
            steps.append(0)
            if len(steps) == 3:
                assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL  # else it would end the tests
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SpectralGPTForPreTraining, "forward", told_in_the_third_step)
    pretrain(*run)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert step <= len(steps) < 10
    assert f"Stopped after step {step}" in capsys.readouterr().out
    pretrain(*run, "--resume", "auto", "--time_limit", 0.001)  # 60 ms
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("hub", "quick")
def test_the_result_is_published_without_paths_of_the_machine(pretrain, shards, tmp_path):
    start = ("--model_name_or_path", "tiny", "--config_overrides", "{}", "--save_dtype", "float16")
    pretrain("--data", shards, "--steps", 2, "--output_dir", tmp_path, *start, "--push_to_hub", "org/more")
    model = SpectralGPTForPreTraining.from_pretrained("org/more", cache_dir=tmp_path / "cache", dtype="auto")
    trained = SpectralGPTForPreTraining.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.float16
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in model.state_dict().items())
    assert "2 steps, from `spectralgpt-tiny`" in ModelCard.load("org/more").text


def test_a_mistyped_checkpoint_is_refused_before_the_hub_is_asked(pretrain, shards, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint tinny: expected a folder"):
        pretrain("--data", shards, "--steps", 1, "--output_dir", tmp_path, "--model_name_or_path", "tinny")


def test_steps_without_finite_gradients_are_skipped_counted_and_end_the_run(pretrain, shards, tmp_path, monkeypatch):
    forward = SpectralGPTForPreTraining.forward
    calls = []

    def sometimes_infinite(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if self.training:
            calls.append(0)
            if len(calls) == 3 or len(calls) > 6:
                output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(SpectralGPTForPreTraining, "forward", sometimes_infinite)
    with pytest.raises(ValueError, match="3 steps in a row were not finite"):
        pretrain("--data", shards, "--steps", 40, "--output_dir", tmp_path, "--max_nonfinite_steps", 2)
    log = [record for record in read_log(tmp_path) if "loss" in record]
    assert [record["skipped_steps"] for record in log] == [0, 0, 1, 1, 1, 1, 2, 3]
    assert np.isfinite(log[3]["loss"])


def test_mistakes_are_told_before_training(pretrain, shards, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("stages:\n- {image_sise: 96}\n")
    with pytest.raises(ValueError, match=r"stage 1: unknown options.*image_sise"):
        pretrain("--config", config, "--output_dir", tmp_path / "a")
    config.write_text("stages:\n- {seed: 96}\n")
    with pytest.raises(ValueError, match="stage 1: seed cannot differ from stage to stage"):
        pretrain("--config", config, "--output_dir", tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="expected shards"):
        pretrain("--data", tmp_path, "--output_dir", tmp_path / "b")
    run = ("--data", shards, "--output_dir", tmp_path / "c", "--steps", 1)
    pretrain(*run)
    with pytest.raises(ValueError, match="holds a run: pass `--resume auto`"):
        pretrain(*run)
    with pytest.raises(ValueError, match="cannot be resumed: steps of stage 1: 1 became 2"):
        pretrain(*run, "--steps", 2, "--resume", "auto")


def test_mistakes_in_a_later_stage_are_told_before_the_first(pretrain, shards, tmp_path):
    config = tmp_path / "config.yaml"
    chips = [ShardRow(str(i), np.ones((3, 64, 64), np.uint16), ["B2", "B3", "B4"]) for i in range(8)]
    write_shards(chips, tmp_path / "narrow")
    for stage, reason in {
        "{data: nowhere}": "stage 2: nowhere: expected shards",
        f"{{data: {tmp_path / 'narrow'}}}": "stage 2: .* in every row, found B2, B3, B4",
        "{image_size: 50}": "stage 2: .*50",
        "{bands: [B2, B3]}": "stage 2: ",
        "{batch_size: 100}": "stage 2: .* do not fill a batch",
        "{stretch: -1}": "stage 2: `stretch` must be 0 or more, got -1",
        "{config_overrides: {hidden_size: 96}}": "stage 2: .* must not change the shapes .* would change",
        "{config_overrides: {decoder_num_hidden_layers: 2}}": "stage 2: `config_overrides` ",
    }.items():
        config.write_text(f"{STAGED}data: {shards}\nstages:\n- {{steps: 1}}\n- {stage}\n")
        with pytest.raises((ValueError, OSError), match=reason):
            pretrain("--config", config, "--output_dir", tmp_path / "run")
    assert not list((tmp_path / "run").glob("stage-*"))
    with pytest.raises(ValueError, match="fp16` needs a GPU"):
        pretrain("--data", shards, "--output_dir", tmp_path / "run", "--mixed_precision", "fp16")


def test_the_command_line_wins_over_the_file_and_every_stage(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("batch_size: 4\nstages:\n- {image-size: 64, steps: 9}\n- {image_size: 96, mask_ratio: null}\n")

    def stages(*arguments):
        return split_stages(parse_pretraining_options(["--config", str(config), *arguments]))

    assert [(s.image_size, s.steps, s.batch_size, s.mask_ratio) for s in stages()] == [(64, 9, 4, 0.9), (96, 0, 4, 0.9)]
    assert [s.image_size for s in stages("--image-size", "32")] == [32, 32]
    # Steps replace epochs: those of a stage would otherwise win over the command line's epochs.
    assert [(s.epochs, s.steps) for s in stages("--epochs", "3")] == [(3, 0), (3, 0)]
    by_python = PretrainingOptions(batch_size=4, stages=[{"image_size": 64, "steps": 9}, {"image_size": 96}])
    assert [replace(s, stages=[]) for s in split_stages(by_python)] == [replace(s, stages=[]) for s in stages()]
    config.write_text("push_to_hub: false\nresume: no\nreport_to: tensorboard\n")
    options = parse_pretraining_options(["--config", str(config)])
    assert (options.push_to_hub, options.resume, options.report_to) == (None, "no", ["tensorboard"])
    config.write_text("stages:\n- {steps: 1}\n- {steps: many}\n")
    with pytest.raises(ValueError, match=r"config\.yaml: stage 2: steps: .*'many'"):
        stages()


@pytest.mark.slow
def test_the_option_mixed_precision_wins_over_accelerates_configuration(pretrain, shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    used = []
    forward = SpectralGPTForPreTraining.forward

    def record(self, *args, **kwargs):
        if type(kwargs.get("pixel_values")) is torch.Tensor:  # operations are counted on tensors of another class
            used.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SpectralGPTForPreTraining, "forward", record)
    for precision, expected in {"no": False, "bf16": True}.items():
        used.clear()
        folder = tmp_path / precision
        pretrain("--data", shards, "--steps", 1, "--output_dir", folder, "--mixed_precision", precision)
        assert used
        assert all(autocast is expected for autocast in used)


def test_a_run_whose_shards_changed_under_the_same_path_is_not_resumed(pretrain, tmp_path):
    def write(value):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        noise = np.random.default_rng(value).integers(1, 3000, (8, 12, 32, 32), dtype=np.uint16)
        write_shards([ShardRow(f"{value}-{i}", pixels, L2A_BANDS) for i, pixels in enumerate(noise)], tmp_path)

    write(1)
    run = ("--data", tmp_path, "--steps", 4, "--output_dir", tmp_path / "run", "--save_every", 2)
    pretrain(*run)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    write(2)
    with pytest.raises(ValueError, match=r"stage 1: .*data: the shards are not those that .*step-00000002 was trained"):
        pretrain(*run, "--resume", "auto")
    write(1)
    pretrain(*run, "--resume", "auto")
    assert [step for step, *_ in losses(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_size_of_a_new_model_is_refused_beside_a_checkpoint(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("preset: base\n")
    options = parse_pretraining_options(["--config", str(config), "--model_name_or_path", "somewhere"])
    assert (options.preset, options.model_name_or_path) == (None, "somewhere")  # the command line wins
    assert parse_pretraining_options([]).preset == "tiny"
    config.write_text("model_name_or_path: somewhere\n")
    with pytest.raises(ValueError, match=r"`preset` base is the size of a new model, but .* names a model"):
        parse_pretraining_options(["--config", str(config), "--preset", "base"])
    with pytest.raises(ValueError, match="`preset` tiny is the size of a new model"):
        PretrainingOptions(preset="tiny", model_name_or_path="somewhere")


@pytest.mark.slow
def test_a_run_that_was_resumed_elsewhere_resumes_there_without_the_first_folder(pretrain, shards, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"{STAGED}stages:\n- {{steps: 4}}\n- {{steps: 8}}\n")
    run = ("--config", config, "--data", shards)
    pretrain(*run, "--output_dir", tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoints" / "step-00000008"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log.jsonl").touch()
    with pytest.raises(ValueError, match="holds a run"):  # and not that of the checkpoint
        pretrain(*run, "--output_dir", tmp_path / "other", "--resume", checkpoint)
    pretrain(*run, "--output_dir", tmp_path / "new", "--resume", checkpoint, "--time_limit", "1e-9")
    (tmp_path / "whole").rename(tmp_path / "gone")
    pretrain(*run, "--output_dir", tmp_path / "new", "--resume", "auto")
    assert losses(tmp_path / "new") == losses(tmp_path / "gone")[8:]
    for name in ("stage-1", "model"):
        assert (tmp_path / "new" / name / "model.safetensors").is_file()


def test_a_checkpoint_from_before_an_option_existed_resumes_and_a_refused_one_leaves_the_log(
    pretrain, shards, tmp_path
):
    run = ("--data", shards, "--steps", 8, "--output_dir", tmp_path)
    pretrain(*run)
    whole = losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    position = tmp_path / "checkpoints" / "step-00000004" / "position.json"
    content = json.loads(position.read_text())
    (stage,) = content["settings"]["stages"]
    del stage["normalization"], stage["stretch"]
    stage["warmup_share"] = stage.pop("warmup_ratio")  # its name in 0.1
    stage["config_overrides"] = json.dumps(stage["config_overrides"])
    position.write_text(json.dumps(content))
    log = (tmp_path / "log.jsonl").read_text()
    for wrong in (("--stretch", "0.5"), ("--data", tmp_path / "nowhere")):
        with pytest.raises((ValueError, OSError)):
            pretrain(*run, *wrong, "--resume", "auto")
    assert (tmp_path / "log.jsonl").read_text() == log
    pretrain(*run, "--resume", "auto")
    assert losses(tmp_path) == whole


@pytest.mark.slow
def test_a_run_may_go_on_elsewhere_or_from_an_older_checkpoint(pretrain, shards, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"{STAGED}max_grad_norm: 0\nstages:\n- {{steps: 4}}\n- {{steps: 12, base_learning_rate: 1e-2}}\n")
    run = ("--config", config, "--data", shards)
    pretrain(*run, "--output_dir", tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1][1] < losses(tmp_path / "whole")[0][1]  # without clipping, too
    checkpoint = tmp_path / "whole" / "checkpoints" / "step-00000012"
    pretrain(*run, "--output_dir", tmp_path / "elsewhere", "--resume", checkpoint)
    assert losses(tmp_path / "elsewhere") == losses(tmp_path / "whole")[12:]
    before = losses(tmp_path / "whole")
    pretrain(*run, "--output_dir", tmp_path / "whole", "--resume", checkpoint, "--time_limit", "1e-9")
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step-00000008", "step-00000012", "step-00000013"]
    pretrain(*run, "--output_dir", tmp_path / "whole", "--resume", "auto")
    assert losses(tmp_path / "whole") == before


@pytest.mark.slow
def test_unreadable_rows_are_counted_over_processes_and_resumes_and_there_are_pictures_without_validation(
    pretrain, shards, tmp_path
):
    folder = tmp_path / "shards"
    rows = [
        ShardRow(str(i), np.full((12, 64, 64), 500 + i, np.uint16), SpectralGPTImageProcessor().bands)
        for i in range(16)
    ]
    (path,) = write_shards(rows, folder)
    table = pq.read_table(path)
    pixels = table["pixels"].to_pylist()
    pixels[3] = pixels[5] = b""
    pq.write_table(table.set_column(table.column_names.index("pixels"), "pixels", [pixels]), path)
    output, _ = start(
        2, "--data", folder, "--batch_size=4", "--steps=6", "--output_dir", tmp_path / "run"
    ).communicate()
    assert "2 processes on cpu" in output, output
    counts = [record["unreadable_rows"] for record in read_log(tmp_path / "run")]
    assert counts[1::2] == [2, 4, 6]  # two an epoch of two steps
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    again = (
        "--data",
        folder,
        "--batch_size=4",
        "--steps=6",
        "--output_dir",
        tmp_path / "again",
        "--resume",
        checkpoint,
    )
    output, _ = start(2, *again).communicate()
    assert [record["unreadable_rows"] for record in read_log(tmp_path / "again")] == counts[4:], output
    assert (tmp_path / "run" / "pictures" / "step-00000006.png").exists()


@pytest.mark.slow
def test_every_ready_config_and_ablation_builds_its_model():
    table = Path("examples/README.md").read_text().split("## The paper's ablations")[1]
    ablations = [
        shlex.split(option) for option in re.findall(r"`(--[^`]*)`", table) if not option.startswith("--config ")
    ]
    runs = [[path] for path in sorted(map(str, Path("examples/configs").glob("pretrain_*.yaml")))]
    runs += [["examples/configs/pretrain_base.yaml", *option] for option in ablations]
    assert len(runs) >= 15
    sizes = set()
    for run in runs:
        config = None
        for stage in split_stages(parse_pretraining_options(["--config", *run])):
            config = check_model(stage, config)
            assert config.image_size == stage.image_size
            sizes.add((config.hidden_size, config.patch_size, config.norm_pix_loss, config.masking))
    assert {1280, 1024, 768, 192} <= {size for size, *_ in sizes}
    assert (768, 16, False, "random") in sizes
    assert (768, 8, True, "random") in sizes
    assert (768, 8, False, "spectral") in sizes


def test_a_resumed_run_keeps_the_attention_that_it_began_with(pretrain, pretrain_script, shards, tmp_path, monkeypatch):
    used = []
    set_attention = SpectralGPTForPreTraining.set_attn_implementation
    monkeypatch.setattr(
        SpectralGPTForPreTraining,
        "set_attn_implementation",
        lambda self, name: (used.append(name), set_attention(self, name))[1],
    )
    options = ["--data", shards, "--output_dir", tmp_path / "run", "--steps", 6, "--resume", "auto"]
    monkeypatch.setattr(pretrain_script, "fastest_attention", lambda *_, **__: "eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_script.Run, "must_stop", lambda self: self.step == 4)
        pretrain(*options)
    monkeypatch.setattr(pretrain_script, "fastest_attention", lambda *_, **__: "sdpa")
    pretrain(*options)
    assert used == ["eager", "eager"]
    assert losses(tmp_path / "run")[-1][0] == 6
    assert "attn" not in (tmp_path / "run" / "model" / "config.json").read_text()


def test_a_checkpoint_from_before_the_trial_goes_on_with_fused_attention(
    pretrain, pretrain_script, shards, tmp_path, monkeypatch
):
    options = ["--data", shards, "--output_dir", tmp_path / "run", "--steps", 6, "--resume", "auto"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_script.Run, "must_stop", lambda self: self.step == 4)
        pretrain(*options)
    (path,) = (tmp_path / "run" / "checkpoints").glob("*/position.json")
    position = json.loads(path.read_text())
    del position["attention"]
    path.write_text(json.dumps(position))
    monkeypatch.setattr(pretrain_script, "fastest_attention", None)  # which is not asked
    pretrain(*options)
    assert losses(tmp_path / "run")[-1][0] == 6


def test_sharding_does_not_round_the_noise_of_the_masks(tmp_path, monkeypatch):
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    plugin = SimpleNamespace(fsdp_version=2, mixed_precision_policy=policy)
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, device=torch.device("cpu"), num_processes=1)
    monkeypatch.setattr(training_run, "Accelerator", lambda **_: accelerator)
    training_run.Run(PretrainingOptions(output_dir=str(tmp_path), mixed_precision="bf16"), [])
    assert plugin.mixed_precision_policy == replace(policy, cast_forward_inputs=False)
