"""A pretraining run: its position in the stages, its checkpoints and log, and the data of its stages."""

import math
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypedDict

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.lr_scheduler import LRScheduler

from ..assets import find_checkpoint
from ..data.shards.format import find_shards
from ..data.shards.stream import ShardStream
from ..files import locked
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from .checkpointing import CheckpointFolder, read_position, write_folder
from .monitoring import JsonLinesLog
from .stages import RUNTIME_OPTIONS, PretrainingOptions, check_model, complete_settings, stage_processor


COUNTERS = ("stage", "stage_step", "step", "skipped", "unreadable")


class RunSettings(TypedDict):
    """The number of processes of a run, and the options of each of its stages."""

    processes: int
    stages: list[dict[str, object]]


class Run:
    """The state of a run: the process group, the position, the log, and the reasons to stop.

    Args:
        options: Options of the run.
        stages: Options of each stage.

    Raises:
        FileNotFoundError: If the checkpoint to resume from does not exist.
        ValueError: If the folder holds another run, or the checkpoint was written with other options.
    """

    def __init__(self, options: PretrainingOptions, stages: list[PretrainingOptions]) -> None:
        self.accelerator = Accelerator(
            mixed_precision=options.mixed_precision,
            log_with=options.report_to or None,
            project_dir=options.output_dir,
            # Without this, processes on CPUs do not find each other, and each trains alone.
            cpu=not torch.accelerator.is_available(),
        )
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
            # FSDP2 would cast the noise of the masks, too. The model casts images itself.
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, cast_forward_inputs=False)
        if options.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError("`mixed_precision: fp16` needs a GPU: use bf16 or no.")
        set_seed(options.seed)
        self.folder = Path(options.output_dir)
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", options.total_limit)
        self.settings: RunSettings = {
            "processes": self.accelerator.num_processes,
            "stages": [asdict(stage) for stage in stages],
        }
        self.stage = self.stage_step = self.step = self.skipped = self.unreadable = 0
        self.resume_from = self._find_checkpoint(options)
        self.shards: dict[str, str] = {}  # fingerprint of the training data, by the number of the stage
        self.attention: dict[str, str] = {}  # kind of attention, by the number of the stage
        reached = (0, 0)
        if self.resume_from:
            position = read_position(self.resume_from)
            self._check_settings(position["settings"])
            for name in COUNTERS:
                setattr(self, name, position[name])
            # Checkpoints of 0.1 have no `shards`, and those from before the trial of attention computed with sdpa.
            self.shards = position.get("shards", {})
            self.attention = position.get("attention", {str(self.stage): "sdpa"})
            reached = (self.stage + 1, self.step)
        # Records after the checkpoint are dropped when the first new record is written, because they are logged again.
        self.log = JsonLinesLog(self.folder / "log.jsonl", lambda record: (record["stage"], record["step"]) <= reached)
        self.deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf
        self.signalled = False
        self.options = options
        self._lock = ExitStack()

    def __enter__(self) -> "Run":
        """Lock the folder, start trackers, and copy finished stages if the run continues one of another folder.

        Raises:
            OSError: If another run writes to the folder.
        """
        if self.accelerator.is_main_process:
            self._lock.enter_context(locked(self.folder))
        self._handler = signal.signal(signal.SIGTERM, self._on_signal)
        if self.options.report_to:
            settings = {
                name: value if isinstance(value, int | float) else str(value)
                for name, value in asdict(self.options).items()
            }
            self.accelerator.init_trackers("spectralgpt", settings)
        if self.resume_from and not self._is_here(self.resume_from):
            for number in range(self.stage):
                self._copy_stage(self.resume_from.parent.parent / f"stage-{number + 1}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        self._lock.close()
        if error is None:
            self.accelerator.end_training()

    def save(self, schedule: LRScheduler) -> None:
        """Write a checkpoint."""
        position = {name: getattr(self, name) for name in (*COUNTERS, "settings", "shards", "attention")}
        self.checkpoints.save(self.accelerator, self.step, {**position, "schedule": schedule.state_dict()})

    def resume(self, schedule: LRScheduler) -> None:
        """Restore the prepared model and optimizer and the schedule, if there is a checkpoint to resume from."""
        if self.resume_from:
            self.checkpoints.load(self.accelerator, self.resume_from)
            schedule.load_state_dict(read_position(self.resume_from)["schedule"])
            if self.accelerator.is_main_process:
                self.checkpoints.discard_after(self.resume_from)
            self.resume_from = None

    def check_shards(self, number: int, stream: ShardStream) -> None:
        """Check that the shards of a stage are those of the checkpoint, and record the shards of a new run.

        Raises:
            ValueError: If the checkpoint was written with other shards.
        """
        if self.shards.setdefault(str(number), stream.fingerprint) != stream.fingerprint:
            raise ValueError(
                f"{stream.paths[0].parent}: the shards are not those that {self.resume_from} was trained on. Restore "
                "them, or start a new run in another folder with `--model_name_or_path`."
            )

    def result(self, number: int) -> Path:
        """Return the folder of a finished stage, counted from 0."""
        return self.folder / f"stage-{number + 1}"

    def record(self, values: Mapping[str, float | int | None]) -> None:
        """Write values to log.jsonl and to the trackers."""
        record = {"step": self.step, "stage": self.stage + 1, **values}
        self.accelerator.log({name: value for name, value in record.items() if value is not None}, step=self.step)
        if self.accelerator.is_main_process:
            self.log.write(record)

    def count_unreadable(self, rows: int) -> None:
        """Add the rows that each process could not read."""
        self.unreadable += int(self.accelerator.reduce(torch.tensor(rows, device=self.accelerator.device), "sum"))

    def must_stop(self) -> bool:
        """Return whether a process got a signal to end or the time limit is reached; the same in all processes."""
        if self.signalled or time.monotonic() > self.deadline:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def _is_here(self, checkpoint: Path) -> bool:
        return checkpoint.resolve().parent.parent == self.folder.resolve()

    def _copy_stage(self, source: Path) -> None:
        """Copy the result of a stage that was finished in another folder, so that this folder can be resumed alone."""

        def write(folder: Path) -> None:
            if self.accelerator.is_main_process:
                shutil.copytree(source, folder, dirs_exist_ok=True)

        if source.is_dir():
            write_folder(self.accelerator, self.folder / source.name, write)

    def _find_checkpoint(self, options: PretrainingOptions) -> Path | None:
        latest = self.checkpoints.latest()
        if options.resume == "auto":
            return latest
        holds_a_run = latest is not None or (self.folder / "log.jsonl").exists()
        if options.resume != "no":
            checkpoint = Path(options.resume)
            if not (checkpoint / "position.json").is_file():
                raise FileNotFoundError(f"`--resume {options.resume}`: expected auto, no, or a complete checkpoint.")
            if self._is_here(checkpoint) or not holds_a_run:
                return checkpoint
        if holds_a_run:
            # If another process works on that run, the error of the lock says so.
            with locked(self.folder) if self.accelerator.is_main_process else nullcontext():
                raise ValueError(f"{self.folder} holds a run: pass `--resume auto` to continue it, or another folder.")
        return None

    def _check_settings(self, before: RunSettings) -> None:
        """Raise a `ValueError` if the run would continue with other options than those of the checkpoint."""
        now = self.settings
        changed = [] if before["processes"] == now["processes"] else ["the number of processes"]
        if len(before["stages"]) != len(now["stages"]):
            changed.append("the number of stages")
        for number, (old, new) in enumerate(zip(before["stages"], now["stages"]), 1):
            old = complete_settings(old)
            names = [name for name in new if name not in RUNTIME_OPTIONS | {"stages"} and old[name] != new[name]]
            changed += [f"{name} of stage {number}: {old[name]!r} became {new[name]!r}" for name in names]
        if changed:
            raise ValueError(f"{self.resume_from} cannot be resumed: {'; '.join(changed)}.")


def check_stages(stages: list[PretrainingOptions], run: Run) -> None:
    """Check the model, the data and the options of all stages before training.

    The model of each stage is built from the configuration of the stage before, without memory for its weights.

    Raises:
        ValueError, FileNotFoundError: The message names the stage.
    """
    source = initial_checkpoint(stages[0])
    config = SpectralGPTConfig.from_pretrained(source) if source else None
    for number, stage in enumerate(stages):
        try:
            config = check_model(stage, config)
            if stage.pools_features and run.accelerator.is_fsdp2:
                raise ValueError("`contrast_weight` and `statistics_weight` need another mode than FSDP2, such as DDP.")
            if number >= run.stage:
                stage_processor(stage, list(config.bands or ()), source, config)
                run.check_shards(number, open_stream(stage, config, run.accelerator, "train", stage.batch_size))
                open_validation(stage, config, run.accelerator)
        except (ValueError, OSError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"stage {number + 1}: {error}") from error


def initial_checkpoint(options: PretrainingOptions) -> str | None:
    """Return what `from_pretrained` loads for the option `model_name_or_path`; None for a new model.

    Raises:
        FileNotFoundError, ValueError: As `assets.find_checkpoint`.
    """
    return find_checkpoint(options.model_name_or_path) if options.model_name_or_path else None


def open_stream(
    stage: PretrainingOptions, config: SpectralGPTConfig, accelerator: Accelerator, split: str, batch_size: int
) -> ShardStream:
    """Open the images of a split, shuffled for training."""
    return ShardStream(
        stage.data,
        list(config.bands or ()),
        batch_size,
        split=split,
        seed=stage.seed,
        shuffle=split == "train",
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        num_workers=stage.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        sensor=config.expected_sensor,
    )


def open_validation(
    stage: PretrainingOptions, config: SpectralGPTConfig, accelerator: Accelerator
) -> ShardStream | None:
    """Return the held-out images in batches of up to 8; None if there are none."""
    if not Path(stage.data).is_dir():
        return None  # a single shard or a pattern holds training data only
    try:
        find_shards(stage.data, "validation")
    except FileNotFoundError:
        return None
    images = open_stream(stage, config, accelerator, "validation", 1).num_samples // accelerator.num_processes
    return open_stream(stage, config, accelerator, "validation", min(images, stage.batch_size, 8))
