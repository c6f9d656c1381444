"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

On one machine, from files at hand:

    spectralgpt prepare scene.tif other_scene/ shards
    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

The paper's two stages on 8 GPUs. A YAML file holds the options. Each entry of its `stages` lists the options that
differ between stages (data, image size, epochs, learning rate, masking, bands), and each stage continues the one
before:

    accelerate launch --config_file examples/accelerate_configs/ddp_8_gpus.yaml examples/pretrain.py \\
        --config examples/configs/pretrain_base.yaml --resume auto

From a published checkpoint. An option on the command line overrides the file and all of its stages:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_tiny.yaml --data shards \\
        --model_name_or_path org/spectralgpt-base --base_learning_rate 1e-4

Order, crops, flips and masks are functions of (seed, epoch, sample). A run that is killed and resumed therefore has the
same losses, on a CPU to the last bit. The result is `OUTPUT_DIR/model`; `log.jsonl`, `pictures` and `checkpoints` are
written beside it.
"""

import math
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .. import SpectralGPTConfig, SpectralGPTForPreTraining
from ..data.shards.stream import ShardStream
from ..hub import publish
from ..hub.cards import card_for
from ..hub.model_items import write_model_item
from ..inference.checkpoints import without_weight_bars
from ..modeling.modeling_spectralgpt import SpectralGPTForPreTrainingOutput
from ..training.attention import fastest_attention
from ..training.checkpointing import write_folder
from ..training.console import describe_pretraining_step
from ..training.memory import keep_freed_memory
from ..training.monitoring import Throughput, attainable_flops, draw_reconstruction, step_flops
from ..training.optimization import parameter_groups
from ..training.pretraining_terms import (
    StatisticsTerm,
    build_projection,
    contrastive_loss,
    pooled_visible_tokens,
    view_statistics,
)
from ..training.run import Run, check_stages, initial_checkpoint, open_stream, open_validation
from ..training.stages import (
    PretrainingOptions,
    build_model,
    parse_pretraining_options,
    split_stages,
    stage_processor,
    view_recipe,
)
from ..training.views import ViewRecipe, join_views, make_views


NUM_FITTED = 2048  # images whose statistics give the principal components of the statistics term


def main(argv: Sequence[str] | None = None) -> None:
    """Pretrain with the options of the command line."""
    pretrain(parse_pretraining_options(argv))


@without_weight_bars()
def pretrain(options: PretrainingOptions) -> None:
    """Train all stages, and write the last one's result with a card to `output_dir/model`.

    Raises:
        ValueError, OSError: If the options, the data or the checkpoint to resume from are not fit; before training.
    """
    stages = split_stages(options)
    run = Run(options, stages)
    check_stages(stages, run)
    if run.accelerator.device.type == "cpu":
        keep_freed_memory()
    with run:
        previous: str | Path | None = initial_checkpoint(options)
        for number, stage in enumerate(stages):
            if number >= run.stage:
                if not train_stage(run, stage, previous):
                    run.accelerator.print(f"Stopped after step {run.step}; `--resume auto` continues.")
                    return
                run.stage, run.stage_step = number + 1, 0
            previous = run.result(number)
        write_result(run, stages)


def train_stage(run: Run, stage: PretrainingOptions, previous: str | Path | None) -> bool:
    """Train one stage, and write its result to `stage-N`. Return False if the run was asked to stop."""
    accelerator, number = run.accelerator, run.stage + 1
    accumulation = accelerator.gradient_accumulation_steps = stage.gradient_accumulation_steps

    # Model and data
    model = build_model(stage, previous)
    config = model.config
    processor = stage_processor(stage, list(config.bands or ()), previous, config)
    recipe = view_recipe(stage, processor)
    projection = build_projection(config.hidden_size) if stage.contrast_weight else None
    num_views = 1 if projection is None else 2
    statistics_term = StatisticsTerm(config).to(accelerator.device) if stage.statistics_weight else None
    dtype = torch.float32 if accelerator.mixed_precision == "no" else torch.bfloat16
    if accelerator.device.type != "cpu" or str(run.stage) not in run.attention:  # a run that resumes computes as before
        images = num_views * stage.batch_size * accelerator.num_processes
        fastest = fastest_attention(model, partial(loss_of_noise, model), images, dtype, accelerator.device)
        (run.attention[str(run.stage)],) = broadcast_object_list([fastest])
    model.set_attn_implementation(run.attention[str(run.stage)])
    stream = open_stream(stage, config, accelerator, "train", stage.batch_size)
    validation = open_validation(stage, config, accelerator)
    if statistics_term is not None and run.stage_step == 0:  # otherwise the checkpoint holds what was found
        statistics_term.fit(first_statistics(run, stage, config, recipe, stream))
    run.checkpoints.check_space(3 * 4 * model.num_parameters())  # float32 weights and two moments
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if stage.compile:
        model.compile()

    # Optimisation: the paper's recipe
    effective_batch = stream.global_batch_size * accumulation
    steps_per_epoch = len(stream) / accumulation
    steps = stage.steps or max(1, round(stage.epochs * steps_per_epoch))
    schedule_steps = round(stage.schedule_epochs * steps_per_epoch) if stage.schedule_epochs else steps
    groups = parameter_groups(model, stage.weight_decay)
    for term in filter(None, (projection, statistics_term)):
        groups += parameter_groups(term, stage.weight_decay)
    optimizer = torch.optim.AdamW(
        groups,
        lr=stage.base_learning_rate * effective_batch / 256,
        betas=(0.9, 0.95),
        fused=accelerator.device.type in ("cpu", "cuda"),  # one pass over the weights instead of a dozen
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    if projection is not None:
        projection = accelerator.prepare(projection)
    if statistics_term is not None:
        statistics_term = accelerator.prepare(statistics_term)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(stage.warmup_ratio * schedule_steps), schedule_steps)
    run.resume(schedule)
    accelerator.print(
        f"stage {number}: {stream.num_samples} images, {accelerator.num_processes} processes on "
        f"{accelerator.device.type}, effective batch {effective_batch}, {steps} steps, "
        f"{run.attention[str(run.stage)]} attention"
    )
    attainable = attainable_flops(accelerator.device, dtype) * accelerator.num_processes
    if run.stage_step == 0 and validation is not None:
        validate(run, model, config, recipe, validation)

    # Training
    progress = tqdm(total=steps, initial=run.stage_step, disable=None if accelerator.is_main_process else True)
    model.train()
    batches = stream.endless(run.stage_step * accumulation)
    nonfinite = unreadable = 0
    throughput = Throughput(effective_batch, step_flops(config) * effective_batch * num_views / attainable)
    while run.stage_step < steps:
        losses = torch.zeros(5, device=accelerator.device)
        for _ in range(accumulation):
            with throughput.waiting():
                epoch, batch = next(batches)
            unreadable += batch["skipped"]
            with accelerator.accumulate(model):
                seed, device = stage.seed + run.stage, accelerator.device
                views = join_views(
                    [make_views(batch, config, seed, epoch, device, recipe, view) for view in range(num_views)]
                )
                output = model(**views, output_hidden_states=stage.pools_features)
                loss = output.loss
                contrast = statistics = torch.zeros_like(loss)
                if stage.pools_features:
                    encoder = accelerator.unwrap_model(model).spectralgpt
                    pooled = pooled_visible_tokens(encoder, output, views["attention_mask"])
                if projection is not None:
                    contrast = contrastive_loss(projection(pooled), stage.contrast_temperature)
                    loss = loss + stage.contrast_weight * contrast
                if statistics_term is not None:
                    statistics = statistics_term(pooled, view_statistics(views, config))
                    loss = loss + stage.statistics_weight * statistics
                accelerator.backward(loss)
            terms = [loss, output.token_loss, output.spectral_loss, contrast, statistics]
            losses += torch.stack(terms).detach() / accumulation
        norm = accelerator.clip_grad_norm_(model.parameters(), stage.max_grad_norm or math.inf)
        finite = norm is None or bool(torch.isfinite(norm))
        nonfinite, run.skipped = (0, run.skipped) if finite else (nonfinite + 1, run.skipped + 1)
        if finite or accelerator.scaler is not None:  # the scaler has to see an overflow, and skips the step itself
            optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        run.step, run.stage_step = run.step + 1, run.stage_step + 1
        throughput.step()
        progress.update()
        if nonfinite > stage.max_nonfinite_steps:
            raise ValueError(
                f"step {run.step}: the gradients of {nonfinite} steps in a row were not finite. Lower "
                "`base_learning_rate`, use `mixed_precision: bf16` or `no`, and look at the data; the last checkpoint "
                f"is {run.checkpoints.latest()}."
            )

        is_last = run.stage_step == steps
        if run.step % stage.log_every == 0 or is_last:
            loss, token_loss, spectral_loss, contrast_loss, statistics_loss = accelerator.reduce(
                losses, "mean"
            ).tolist()
            progress.set_postfix(loss=f"{loss:.4f}")
            run.count_unreadable(unreadable)
            unreadable = 0
            record = {
                "epoch": round(run.stage_step / steps_per_epoch, 3),
                "loss": loss,
                "token_loss": token_loss,
                "spectral_loss": spectral_loss,
                "contrast_loss": None if projection is None else contrast_loss,
                "statistics_loss": None if statistics_term is None else statistics_loss,
                "learning_rate": schedule.get_last_lr()[0],
                "grad_norm": None if norm is None or not finite else float(norm),
                "skipped_steps": run.skipped,
                "unreadable_rows": run.unreadable,
            }
            record |= throughput.rates()
            run.record(record)
            if progress.disable:
                accelerator.print(describe_pretraining_step(run.stage_step, steps, effective_batch, record))
        if run.step % stage.eval_every == 0 or is_last:
            if validation is not None:
                validate(run, model, config, recipe, validation)
            else:
                draw(run, views["pixel_values"], output, config)
            throughput.restart()
        stopping = run.must_stop()
        if stopping or run.step % stage.save_every == 0 or is_last:
            run.count_unreadable(unreadable)
            unreadable = 0
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

    write_folder(accelerator, run.result(run.stage), write)
    accelerator.free_memory(model, optimizer)
    return True


def first_statistics(
    run: Run, stage: PretrainingOptions, config: SpectralGPTConfig, recipe: ViewRecipe, stream: ShardStream
) -> torch.Tensor:
    """Return the statistics (N, S) of the first views of a stage, in all processes."""
    device, count = run.accelerator.device, math.ceil(NUM_FITTED / stream.global_batch_size)
    batches = islice(stream.endless(), count)
    views = (make_views(batch, config, stage.seed + run.stage, epoch, device, recipe) for epoch, batch in batches)
    return run.accelerator.gather(torch.cat([view_statistics(view, config) for view in views]))


def loss_of_noise(model: SpectralGPTForPreTraining, images: int) -> torch.Tensor:
    """Return the loss of random images, for a trial of the speed of training."""
    config = model.config
    return model.train()(torch.rand(images, config.num_channels, config.image_size, config.image_size)).loss


@torch.no_grad()
def validate(
    run: Run, model: torch.nn.Module, config: SpectralGPTConfig, recipe: ViewRecipe, stream: ShardStream
) -> None:
    """Log the loss on held-out images, which are always cropped and masked alike; draw the first of them."""
    model.eval()
    total = torch.zeros(2, dtype=torch.float64)
    for batch in stream.batches():
        views = make_views(batch, config, 0, 0, run.accelerator.device, ViewRecipe(recipe.limits))
        output = model(**views)
        if not total[1]:
            draw(run, views["pixel_values"], output, config)
        total += torch.tensor([output.loss.item(), 1.0])
    model.train()
    loss, count = run.accelerator.reduce(total.to(run.accelerator.device, torch.float32)).tolist()
    run.accelerator.print(f"step {run.step}: validation loss {loss / count:.5f}")
    run.record({"validation_loss": loss / count})


def draw(run: Run, images: torch.Tensor, output: SpectralGPTForPreTrainingOutput, config: SpectralGPTConfig) -> None:
    """Write a picture of the first image of a batch: the original, its visible part and the reconstruction."""
    if run.accelerator.is_main_process and output.mask is not None and output.logits is not None:
        path = run.folder / "pictures" / f"step-{run.step:08d}.png"
        draw_reconstruction(images[0], output.mask[0], output.logits[0].detach(), config, path)


def write_result(run: Run, stages: list[PretrainingOptions]) -> None:
    """Write the last stage's result in the type asked for, with a card, and publish it if asked to."""
    options = run.options

    def write(folder: Path) -> None:
        if run.accelerator.is_main_process:
            shutil.copytree(run.result(len(stages) - 1), folder, dirs_exist_ok=True)
            model = SpectralGPTForPreTraining.from_pretrained(folder, dtype=getattr(torch, options.save_dtype))
            model.save_pretrained(folder)
            (folder / "README.md").write_text(card_for(model.config, {"training": describe(stages, run)}))
            write_model_item(folder, run.folder.resolve().name)

    write_folder(run.accelerator, run.folder / "model", write)
    run.accelerator.print(f"The checkpoint is in {run.folder / 'model'}.")
    if options.push_to_hub and run.accelerator.is_main_process:
        run.accelerator.print(publish(run.folder / "model", options.push_to_hub))


def describe(stages: list[PretrainingOptions], run: Run) -> str:
    """Return the section of the card about the training of the model."""
    lines = [
        f"{number}. {stage.image_size} px, {stage.masking} masking of {stage.mask_ratio:.0%}, batches of "
        f"{stage.batch_size} x {stage.gradient_accumulation_steps} x {run.accelerator.num_processes}, base learning "
        f"rate {stage.base_learning_rate:g}, on the shards `{Path(stage.data).name}`"
        for number, stage in enumerate(stages, 1)
    ]
    checkpoint = initial_checkpoint(stages[0])
    source = f", from `{Path(checkpoint).name}`" if checkpoint else ""
    return f"Pretrained with `examples/pretrain.py`, {run.step} steps{source}:\n\n" + "\n".join(lines)
