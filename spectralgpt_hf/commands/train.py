"""Fine-tuning of SpectralGPT, or of a baseline: classification, segmentation and change detection.

All three go the same way: options, samples, model, training, scores, card. `training/` holds what differs.
"""

import warnings

from transformers import set_seed

from ..hub.finetuned_cards import finish
from ..training.arguments import parse_options
from ..training.finetuning import FineTuner
from ..training.models import build_model, build_processor
from ..training.options import FineTuningOptions, Task
from ..training.samples import class_weights, load_samples
from ..training.summary import describe_data, find_problems


def main(task: Task) -> None:
    """Fine-tune a model for a task with the options of the command line, and write it with its scores and card."""
    options = parse_options(FineTuningOptions)
    set_seed(options.seed)

    options.check_applies(task)
    samples = load_samples(task, options, build_processor(options, task))
    train = samples["train"]
    if options.process_index == 0:
        print(describe_data(samples))
    if options.dry_run:
        return
    weights = class_weights(options.class_weights, train)
    model = build_model(task, options, train.class_names, weights, train.problem_type)

    # The background of a map is scored apart from its classes.
    names = train.class_names
    background = names.index("Background") if task == "segmentation" and "Background" in names else None
    tuner = FineTuner(model, options, train, samples.get("validation"), weights, background)
    tuner.train(resume_from_checkpoint=options.resume_from_checkpoint)

    # Only now is the test split looked at.
    scores = {split: tuner.score(samples[split]) for split in samples if split != "train"}
    losses = [record["loss"] for record in tuner.state.log_history if "loss" in record]
    problems = find_problems(scores, losses)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    finish(tuner, task, samples, scores, problems)
