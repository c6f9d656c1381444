"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

    spectralgpt prepare scene.tif other_scene/ shards
    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

Options may come from a YAML file, which the command line overrides. Its `stages` are lists of options that differ from
stage to stage (data, image size, epochs, learning rate, masking, bands); each goes on from the one before:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_base.yaml --resume auto

Order, crops, flips and masks are functions of (seed, epoch, sample): a run that is killed and resumed gives the same
losses, to the last bit on CPU. `OUTPUT_DIR/model` is the result, beside `log.jsonl`, `pictures` and `checkpoints`.
"""

import json
import math
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .. import SpectralGPTConfig, SpectralGPTForPreTraining
from ..data.shards.format import find_shards
from ..data.shards.stream import ShardStream
from ..hub import publish
from ..hub.cards import card_for
from ..inference.pictures import reconstruction_panel
from ..inference.reconstruction import Reconstruction
from ..modeling.modeling_spectralgpt import SpectralGPTPositionEmbeddings, unpatchify
from ..training.arguments import parse_options
from ..training.checkpointing import CheckpointFolder, read_position, write_folder
from ..training.contrast import build_projection, contrastive_loss, pooled_visible_tokens
from ..training.monitoring import JsonLinesLog, attainable_flops, step_flops
from ..training.optimization import parameter_groups
from ..training.stages import FREE, PretrainingOptions, split_stages, stage_config, stage_processor, view_recipe
from ..training.views import ViewRecipe, join_views, make_views


COUNTERS = ("stage", "stage_step", "step", "skipped", "unreadable")


class Run:
    """What lasts as long as the script: the process group, the position, the log, the reasons to stop."""

    def __init__(self, options: PretrainingOptions, stages: list[PretrainingOptions]) -> None:
        self.accelerator = Accelerator(
            mixed_precision=options.mixed_precision,
            log_with=options.report_to or None,
            project_dir=options.output_dir,
            # Without this, processes on CPUs do not find each other, and each trains alone.
            cpu=not torch.accelerator.is_available(),
        )
        if options.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError("`mixed_precision: fp16` needs a GPU: use bf16 or no.")
        set_seed(options.seed)
        self.folder = Path(options.output_dir)
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", options.total_limit)
        self.settings = {"processes": self.accelerator.num_processes, "stages": [asdict(stage) for stage in stages]}
        self.stage = self.stage_step = self.step = self.skipped = self.unreadable = 0
        self.resume_from = self._find_checkpoint(options)
        self.earlier = self.folder  # where the stages lie that were finished before this start
        if self.resume_from:
            position = read_position(self.resume_from)
            self._check_settings(position["settings"])
            for name in COUNTERS:
                setattr(self, name, position[name])
            self.earlier = self.resume_from.parent.parent
        here = (self.stage + 1, self.step) if self.resume_from else (0, 0)
        # Of what was logged after the checkpoint, nothing stays: it will be logged again.
        self.log = JsonLinesLog(self.folder / "log.jsonl", lambda record: (record["stage"], record["step"]) <= here)
        self.deadline = time.monotonic() + 60 * options.time_limit if options.time_limit else math.inf
        self.signalled = False
        signal.signal(signal.SIGTERM, self._on_signal)
        if options.report_to:
            settings = {
                name: value if isinstance(value, int | float) else str(value) for name, value in asdict(options).items()
            }
            self.accelerator.init_trackers("spectralgpt", settings)

    def save(self, schedule: Any) -> None:
        position = {name: getattr(self, name) for name in (*COUNTERS, "settings")}
        self.checkpoints.save(self.accelerator, self.step, {**position, "schedule": schedule.state_dict()})

    def resume(self, schedule: Any) -> None:
        """Restore the model, the optimizer and the schedule that were prepared, where there is a checkpoint."""
        if self.resume_from:
            self.checkpoints.load(self.accelerator, self.resume_from)
            schedule.load_state_dict(read_position(self.resume_from)["schedule"])
            if self.accelerator.is_main_process:
                self.checkpoints.forget_after(self.resume_from)
            self.resume_from = None

    def result(self, number: int) -> str:
        """Return the folder of a finished stage, counted from 0."""
        here, earlier = (folder / f"stage-{number + 1}" for folder in (self.folder, self.earlier))
        return str(here if here.exists() else earlier)

    def record(self, values: dict[str, Any]) -> None:
        """Write values to log.jsonl and to the trackers."""
        values = {"step": self.step, "stage": self.stage + 1, **values}
        self.accelerator.log({name: value for name, value in values.items() if value is not None}, step=self.step)
        if self.accelerator.is_main_process:
            self.log.write(values)

    def must_stop(self) -> bool:
        """Return whether any process was told to end, or the time is up; the same answer in all of them."""
        if self.signalled or time.monotonic() > self.deadline:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _on_signal(self, *_: Any) -> None:
        self.signalled = True

    def _find_checkpoint(self, options: PretrainingOptions) -> Path | None:
        latest = self.checkpoints.latest()
        if options.resume == "auto":
            return latest
        if options.resume != "no":
            if not (Path(options.resume) / "position.json").is_file():
                raise FileNotFoundError(f"`--resume {options.resume}`: expected auto, no, or a complete checkpoint.")
            return Path(options.resume)
        if latest or (self.folder / "log.jsonl").exists():
            raise ValueError(f"{self.folder} holds a run: pass `--resume auto` to go on with it, or another folder.")
        return None

    def _check_settings(self, before: dict[str, Any]) -> None:
        """Refuse to go on with other data, another batch or another schedule: it would not be the same run."""
        now = self.settings
        changed = [] if before["processes"] == now["processes"] else ["the number of processes"]
        if len(before["stages"]) != len(now["stages"]):
            changed.append("the number of stages")
        for number, (old, new) in enumerate(zip(before["stages"], now["stages"]), 1):
            names = [name for name in new if name not in FREE and old.get(name) != new[name]]
            changed += [f"{name} of stage {number}: {old.get(name)!r} became {new[name]!r}" for name in names]
        if changed:
            raise ValueError(f"{self.resume_from} cannot be resumed: {'; '.join(changed)}.")


def build_model(stage: PretrainingOptions, previous: str | None) -> SpectralGPTForPreTraining:
    """Return the model of a stage: new, or from a checkpoint, with positions for its size and bands."""
    if previous is None:
        return SpectralGPTForPreTraining(stage_config(stage, None))
    settings = {"mask_ratio": stage.mask_ratio, "masking": stage.masking, **json.loads(stage.config_overrides)}
    model = SpectralGPTForPreTraining.from_pretrained(previous, dtype=torch.float32, **settings)
    resized = stage.image_size != model.config.image_size
    model.resize_positions(stage.image_size, stage.bands)
    if resized and stage.positions == "reinitialise":
        for module in model.modules():
            if isinstance(module, SpectralGPTPositionEmbeddings):
                module.spatial_position_embeddings.data = module.sine_cosine_positions()
    return model


def check_stages(stages: list[PretrainingOptions], run: Run) -> None:
    """Refuse what a later stage would stumble over, before days are spent on the ones before it."""
    source = stages[0].model_name_or_path
    config = SpectralGPTConfig.from_pretrained(source) if source else None
    for number, stage in enumerate(stages):
        try:
            config = stage_config(stage, config)
            config.check()
            if number >= run.stage:
                stage_processor(stage, list(config.bands or ()), source)
                open_stream(stage, list(config.bands or ()), run.accelerator, "train", stage.batch_size)
                open_validation(stage, list(config.bands or ()), run.accelerator)
        except (ValueError, OSError) as error:
            raise type(error)(f"stage {number + 1}: {error}") from error


def open_stream(
    stage: PretrainingOptions, bands: list[str], accelerator: Accelerator, split: str, batch_size: int
) -> ShardStream:
    return ShardStream(
        stage.data,
        bands,
        batch_size,
        split=split,
        seed=stage.seed,
        shuffle=split == "train",
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        num_workers=stage.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )


@torch.no_grad()
def validate(
    model: torch.nn.Module, stream: ShardStream, config: SpectralGPTConfig, recipe: ViewRecipe, run: Run, picture: Path
) -> float:
    """Return the loss on held-out images, always cropped and masked alike; draw the first of them."""
    model.eval()
    total = torch.zeros(2, dtype=torch.float64)
    for batch in stream.batches():
        views = make_views(batch, config, 0, 0, run.accelerator.device, ViewRecipe(recipe.limits))
        output = model(**views)
        if not total[1] and run.accelerator.is_main_process:
            draw(views["pixel_values"], output, config, picture)
        total += torch.tensor([output.loss.item(), 1.0])
    model.train()
    loss, count = run.accelerator.reduce(total.to(run.accelerator.device, torch.float32)).tolist()
    return loss / count


def draw(images: torch.Tensor, output: Any, config: SpectralGPTConfig, path: Path) -> None:
    """Write a picture of the first image of a batch, of what was visible of it and of what was made of that."""
    if config.norm_pix_loss or not {"B2", "B3", "B4", "B8"} <= set(config.bands or ()):
        return
    size = images.shape[-1]
    hidden = output.mask[:1, :, None].expand(-1, -1, output.logits.shape[-1])
    hidden, rebuilt = (
        unpatchify(tokens, size, size, config)[0].cpu() for tokens in (hidden, output.logits[:1].detach().float())
    )
    original = images[0].cpu()
    rebuilt = torch.where(hidden == 1, rebuilt, original)
    shown = Reconstruction(original.numpy(), hidden.numpy() == 1, rebuilt.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    reconstruction_panel(shown, (shown.original, shown.reconstructed), config.bands or (), path=path, title=path.stem)


def open_validation(stage: PretrainingOptions, bands: list[str], accelerator: Accelerator) -> ShardStream | None:
    """Return the held-out images, if there are any, in batches of up to 8."""
    if not Path(stage.data).is_dir():
        return None  # a pattern says which shards to train on
    try:
        find_shards(stage.data, "validation")
    except FileNotFoundError:
        return None
    images = open_stream(stage, bands, accelerator, "validation", 1).num_samples // accelerator.num_processes
    return open_stream(stage, bands, accelerator, "validation", min(images, stage.batch_size, 8))


def train_stage(run: Run, stage: PretrainingOptions, previous: str | None) -> bool:
    """Train one stage, and write its result to `stage-N`. Return False if the run was told to stop."""
    accelerator, number = run.accelerator, run.stage + 1
    accelerator.gradient_accumulation_steps = stage.gradient_accumulation_steps

    # Model and data
    model = build_model(stage, previous)
    config = model.config
    bands = list(config.bands or ())
    processor = stage_processor(stage, bands, previous)
    recipe = view_recipe(stage, processor)
    projection = build_projection(config.hidden_size) if stage.contrast_weight else None
    stream = open_stream(stage, bands, accelerator, "train", stage.batch_size)
    validation = open_validation(stage, bands, accelerator)
    run.checkpoints.check_space(3 * 4 * model.num_parameters())  # float32 weights and two moments
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if stage.compile:
        model.compile()

    # Optimisation: the paper's recipe
    accumulation = stage.gradient_accumulation_steps
    effective_batch = stream.global_batch_size * accumulation
    steps_per_epoch = len(stream) / accumulation
    steps = stage.steps or max(1, round(stage.epochs * steps_per_epoch))
    schedule_steps = round(stage.schedule_epochs * steps_per_epoch) if stage.schedule_epochs else steps
    groups = parameter_groups(model, stage.weight_decay)
    if projection is not None:
        groups += parameter_groups(projection, stage.weight_decay)
    optimizer = torch.optim.AdamW(
        groups,
        lr=stage.base_learning_rate * effective_batch / 256,
        betas=(0.9, 0.95),
        fused=accelerator.device.type in ("cpu", "cuda"),  # one pass over the weights instead of a dozen
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    if projection is not None:
        projection = accelerator.prepare(projection)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(stage.warmup_share * schedule_steps), schedule_steps)
    run.resume(schedule)
    accelerator.print(
        f"stage {number}: {stream.num_samples} images, {accelerator.num_processes} processes on "
        f"{accelerator.device.type}, effective batch {effective_batch}, {steps} steps"
    )
    num_views = 1 if projection is None else 2
    flops = step_flops(config) * effective_batch * num_views
    dtype = torch.float32 if accelerator.mixed_precision == "no" else torch.bfloat16
    attainable = attainable_flops(accelerator.device, dtype) * accelerator.num_processes

    def evaluate() -> None:
        picture = run.folder / "pictures" / f"step-{run.step:08d}.png"
        if validation is None:
            if run.stage_step and accelerator.is_main_process:
                draw(views["pixel_values"], output, config, picture)
            return
        loss = validate(model, validation, config, recipe, run, picture)
        accelerator.print(f"step {run.step}: validation loss {loss:.5f}")
        run.record({"validation_loss": loss})

    if run.stage_step == 0:
        evaluate()

    # Training
    progress = tqdm(total=steps, initial=run.stage_step, disable=None if accelerator.is_main_process else True)
    model.train()
    batches = stream.endless(run.stage_step * accumulation)
    nonfinite = unreadable = steps_timed = 0

    def count_unreadable() -> None:
        nonlocal unreadable
        run.unreadable += int(accelerator.reduce(torch.tensor(unreadable, device=accelerator.device), "sum"))
        unreadable = 0

    waited, started = 0.0, time.perf_counter()
    while run.stage_step < steps:
        losses = torch.zeros(4, device=accelerator.device)
        for _ in range(accumulation):
            asked = time.perf_counter()
            epoch, batch = next(batches)
            waited += time.perf_counter() - asked
            unreadable += batch["skipped"]
            with accelerator.accumulate(model):
                seed, device = stage.seed + run.stage, accelerator.device
                views = join_views(
                    [make_views(batch, config, seed, epoch, device, recipe, view) for view in range(num_views)]
                )
                output = model(**views, output_hidden_states=projection is not None)
                loss, contrast = output.loss, torch.zeros_like(output.loss)
                if projection is not None:
                    encoder = accelerator.unwrap_model(model).spectralgpt
                    pooled = pooled_visible_tokens(encoder, output, views["attention_mask"])
                    contrast = contrastive_loss(projection(pooled), stage.contrast_temperature)
                    loss = loss + stage.contrast_weight * contrast
                accelerator.backward(loss)
            losses += torch.stack([loss, output.token_loss, output.spectral_loss, contrast]).detach() / accumulation
        norm = accelerator.clip_grad_norm_(model.parameters(), stage.max_grad_norm or math.inf)
        finite = norm is None or bool(torch.isfinite(norm))
        nonfinite, run.skipped = (0, run.skipped) if finite else (nonfinite + 1, run.skipped + 1)
        if finite or accelerator.scaler is not None:  # the scaler has to see an overflow, and skips the step itself
            optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        run.step, run.stage_step, steps_timed = run.step + 1, run.stage_step + 1, steps_timed + 1
        progress.update()
        if nonfinite > stage.max_nonfinite_steps:
            raise ValueError(
                f"step {run.step}: the gradients of {nonfinite} steps in a row were not finite. Lower "
                "`base_learning_rate`, use `mixed_precision: bf16` or `no`, and look at the data; the last checkpoint "
                f"is {run.checkpoints.latest()}."
            )

        if run.step % stage.log_every == 0 or run.stage_step == steps:
            loss, token_loss, spectral_loss, contrast_loss = accelerator.reduce(losses, "mean").tolist()
            progress.set_postfix(loss=f"{loss:.4f}")
            count_unreadable()
            seconds = time.perf_counter() - started
            record = {
                "epoch": round(run.stage_step / steps_per_epoch, 3),
                "loss": loss,
                "token_loss": token_loss,
                "spectral_loss": spectral_loss,
                "contrast_loss": None if projection is None else contrast_loss,
                "learning_rate": schedule.get_last_lr()[0],
                "grad_norm": None if norm is None or not finite else float(norm),
                "skipped_steps": run.skipped,
                "unreadable_rows": run.unreadable,
                "samples_per_second": steps_timed * effective_batch / seconds,
                "flops_utilisation": steps_timed * flops / seconds / attainable,
                "data_wait": waited / seconds,
            }
            run.record(record)
            steps_timed, waited, started = 0, 0.0, time.perf_counter()
        if run.step % stage.eval_every == 0 or run.stage_step == steps:
            evaluate()
            steps_timed, waited, started = 0, 0.0, time.perf_counter()
        stopping = run.must_stop()
        if stopping or run.step % stage.save_every == 0 or run.stage_step == steps:
            count_unreadable()
            run.save(schedule)
        if stopping:
            return False
    progress.close()

    # The result of the stage: weights, configuration, processor, code
    weights = accelerator.get_state_dict(model)

    def write(folder: Path) -> None:
        if accelerator.is_main_process:
            accelerator.unwrap_model(model).save_pretrained(folder, state_dict=weights)
            processor.save_pretrained(folder)

    write_folder(accelerator, run.folder / f"stage-{number}", write)
    accelerator.free_memory(model, optimizer)
    return True


def describe(stages: list[PretrainingOptions], run: Run) -> str:
    """Say in a card how the model was trained."""
    lines = [
        f"{number}. {stage.image_size} px, {stage.masking} masking of {stage.mask_ratio:.0%}, batches of "
        f"{stage.batch_size} x {stage.gradient_accumulation_steps} x {run.accelerator.num_processes}, base learning "
        f"rate {stage.base_learning_rate:g}, on the shards `{Path(stage.data).name}`"
        for number, stage in enumerate(stages, 1)
    ]
    source = f", from `{Path(stages[0].model_name_or_path).name}`" if stages[0].model_name_or_path else ""
    return f"Pretrained with `examples/pretrain.py`, {run.step} steps{source}:\n\n" + "\n".join(lines)


def main() -> None:
    options = parse_options(PretrainingOptions)
    stages = split_stages(options)
    run = Run(options, stages)
    accelerator = run.accelerator
    check_stages(stages, run)
    previous = options.model_name_or_path
    for number, stage in enumerate(stages):
        if number >= run.stage:
            if not train_stage(run, stage, previous):
                accelerator.print(f"Stopped after step {run.step}; `--resume auto` goes on.")
                accelerator.end_training()
                return
            run.stage, run.stage_step = number + 1, 0
        previous = run.result(number)

    # The result: the last stage, in the type asked for, with a card
    def write(folder: Path) -> None:
        if accelerator.is_main_process:
            shutil.copytree(str(previous), folder, dirs_exist_ok=True)
            model = SpectralGPTForPreTraining.from_pretrained(folder, dtype=getattr(torch, options.save_dtype))
            model.save_pretrained(folder)
            (folder / "README.md").write_text(card_for(model.config, {"training": describe(stages, run)}))

    write_folder(accelerator, run.folder / "model", write)
    if options.push_to_hub and accelerator.is_main_process:
        accelerator.print(publish(run.folder / "model", options.push_to_hub))
    accelerator.end_training()
