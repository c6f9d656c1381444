"""Fine-tune SpectralGPT, or a baseline, for classification, segmentation or change detection.

All three go the same way: options, samples, a look at the data, model, training, scores, card. `training/` holds what
differs.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import set_seed

from ..data.readers.layouts import find_base
from ..hub.finetuned_cards import SCORED_SPLITS, finish
from ..inference.checkpoints import without_weight_bars
from ..training.arguments import build_options, read_options
from ..training.finetuning import FineTuner
from ..training.memory import keep_freed_memory
from ..training.models import build_model, build_processor
from ..training.options import FineTuningOptions, Task
from ..training.samples import Samples, class_weights, load_samples
from ..training.score_pictures import draw_samples
from ..training.summary import describe_data, describe_scores, find_problems
from ..training.survey import describe_unstated_offsets, find_unstated_offsets


@without_weight_bars()
def main(task: Task, argv: Sequence[str] | None = None, has_recipe: bool = False) -> None:
    """Fine-tune a model for a task with the options of the command line, and write it with its scores and card.

    Args:
        task: "classification", "segmentation" or "change-detection".
        argv: Command line without the program's name; that of the process by default.
        has_recipe: Whether the file of options is a recipe of this package. Those of its options that have no effect on
            the data at hand are left out; others are refused.

    Raises:
        ValueError, OSError: If options, data or checkpoint are not fit; before training.
    """
    file, given, _ = read_options(FineTuningOptions, argv)
    options = build_options(FineTuningOptions, file | given)
    set_seed(options.seed)

    options.check_applies(task)
    samples = load_samples(task, options, build_processor(options, task))
    train = samples["train"]
    if has_recipe:
        left_out = options.leave_out(file.keys() - given.keys(), task, train.problem_type)
        if left_out and options.process_index == 0:
            print(f"left out of the recipe, because it has no effect on these labels: {', '.join(left_out)}")
    options.check_applies(task, train.problem_type)
    if options.process_index == 0:
        show_data(task, options, samples)
    if options.dry_run:
        return
    weights = class_weights(options.class_weights, train)
    model = build_model(task, options, train.class_names, weights, train.problem_type, train.class_codes)

    if options.device.type == "cpu":
        keep_freed_memory()
    # The background of a map is scored apart from its classes.
    names = train.class_names
    background = names.index("Background") if task == "segmentation" and "Background" in names else None
    tuner = FineTuner(model, options, train, samples.get("validation"), weights, background)
    tuner.train(resume_from_checkpoint=options.resume_from_checkpoint)

    # The test split is scored once, after training.
    scores = {split: tuner.score(samples[split]) for split in SCORED_SPLITS if split in samples}
    losses = [record["loss"] for record in tuner.state.log_history if "loss" in record]
    problems = find_problems(scores, losses, options.probe_first)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    finish(tuner, task, samples, scores, problems)
    if options.process_index == 0:
        print(describe_scores(scores))
        print(f"The model, its card and pictures are in {options.model_dir}")


def show_data(task: Task, options: FineTuningOptions, samples: Mapping[str, Samples]) -> None:
    """Print a summary of the data, draw some samples, and refuse files whose offset seems unstated.

    Raises:
        ValueError: If files seem to carry an offset that nothing states.
    """
    output = Path(options.output_dir or ".")
    print(describe_data(samples))
    output.mkdir(parents=True, exist_ok=True)
    draw_samples(samples["train"], output / "samples.png")
    print(f"picture of some training samples: {output / 'samples.png'}")
    found = find_unstated_offsets(samples) if options.dataset == "folder" else {}
    if found:
        roles = {"segmentation": {"images": options.images}, "change-detection": {"before": options.before}}
        base = find_base(options.data_dir, roles[task]) if task in roles else Path(options.data_dir)
        raise ValueError(describe_unstated_offsets(found, base, output))
