"""The command that evaluates checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app, names
from .options import NAMES, Revision


@app.command()
def evaluate(
    checkpoints: Annotated[list[str], typer.Argument(help=f"Checkpoints: each {NAMES}.")],
    chips: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled chips: L1C/NAME.tif with 13 bands, LULC/NAME.tif with classes. Scores "
            "reconstruction and land use. Default: none."
        ),
    ] = None,
    eurosat: Annotated[
        Path | None,
        typer.Option(help="Folder that holds EuroSAT's class folders. Scores features with few labels. Default: none."),
    ] = None,
    train_part: Annotated[
        str, typer.Option(help="Part of EuroSAT to train on, by the column `part` of its index.csv.")
    ] = "all",
    test_part: Annotated[
        str | None,
        typer.Option(help="Part of EuroSAT on which the trained models are scored. Default: cross-validation only."),
    ] = None,
    read_out: Annotated[
        list[str],
        typer.Option(
            help="Features of the checkpoints: pooled, groups, 'mean and std', 'groups, mean and std', 'layer 3', ... "
            "The option may be repeated; the first one is compared with the other contestants."
        ),
    ] = ["pooled"],  # noqa: B006 (Typer reads it only)
    image_model: Annotated[
        list[str] | None,
        typer.Option(
            help="Another image model of transformers, which sees true colour. The option may be repeated. "
            "Default: none."
        ),
    ] = None,
    finetune_seeds: Annotated[
        int, typer.Option(help="Number of runs of few-shot training for each way and number of images.")
    ] = 0,
    finetune_way: Annotated[
        list[str],
        typer.Option(
            help="Way of few-shot training: checkpoint, lora, random or resnet. The option may be repeated; the first "
            "one is compared with the others. Without a test part, runs are scored on folds of the training part."
        ),
    ] = ["checkpoint", "lora", "random", "resnet"],  # noqa: B006 (Typer reads it only)
    finetune_steps: Annotated[
        int, typer.Option(help="Number of optimizer steps of each such run; 0 for the head alone.")
    ] = 10,
    lora_rank: Annotated[int, typer.Option(help="Rank of LoRA in the runs that use it.")] = 8,
    with_offset: Annotated[
        str | None,
        typer.Option(
            help="Names of the chips that carry an offset of +1000 which their files do not state, with commas. "
            "Default: none."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of masks for each crop, and of untrained networks.")] = 5,
    output: Annotated[
        Path | None, typer.Option(help="JSON file for the scores; a picture is drawn beside it. Default: none.")
    ] = None,
    hub_dataset: Annotated[
        str | None,
        typer.Option(
            help="EuroSAT on the Hub: namespace/name, or namespace/name/task. Writes CHECKPOINT/.eval_results beside "
            "--output, to be copied to the checkpoint. Default: none."
        ),
    ] = None,
    revision: Revision = "main",
) -> None:
    """Score the features of checkpoints: reconstruction, land use, and EuroSAT with few labels."""
    from spectralgpt_hf.commands.evaluate import EvaluationOptions
    from spectralgpt_hf.commands.evaluate import evaluate as run

    run(
        EvaluationOptions(
            checkpoints,
            chips=chips,
            eurosat=eurosat,
            train_part=train_part,
            test_part=test_part,
            read_outs=read_out,
            image_models=image_model or (),
            finetune_seeds=finetune_seeds,
            finetune_ways=finetune_way,
            finetune_steps=finetune_steps,
            lora_rank=lora_rank,
            with_offset=names(with_offset) or (),
            seeds=seeds,
            output=output,
            hub_dataset=hub_dataset,
            revision=revision,
        )
    )
