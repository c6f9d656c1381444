"""Fine-tune SpectralGPT, or a baseline, to classify images: one class each, or several.

    python examples/finetune_classification.py --config examples/configs/eurosat.yaml --data_dir EuroSAT \\
        --model_name_or_path spectralgpt-base-plus

Datasets: eurosat, bigearthnet (version 1), bigearthnet_v2, fmow, folder (a folder for each class), shards.
`torchrun --nproc_per_node 8` in place of `python` uses eight GPUs. `--resume_from_checkpoint last` goes on after an
interruption. The finished model lies in `<output_dir>/model`, with `metrics.json`, a card and pictures.
"""

from transformers import set_seed

from spectralgpt_hf.hub.finetuned_cards import finish
from spectralgpt_hf.training.arguments import parse_options
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.models import build_model, build_processor
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import class_weights, load_samples


def main() -> None:
    options = parse_options(FineTuningOptions)
    set_seed(options.seed)

    samples = load_samples("classification", options, build_processor(options))
    train = samples["train"]
    weights = class_weights(options.class_weights, train)
    problem_type = f"{'multi' if train.multi_label else 'single'}_label_classification"
    model = build_model("classification", options, train.class_names, weights, problem_type)

    tuner = FineTuner(model, options, train, samples.get("validation"), weights)
    tuner.train(resume_from_checkpoint=options.resume_from_checkpoint)

    # Only now is the test split looked at.
    scores = {split: tuner.score(samples[split]) for split in samples if split != "train"}
    finish(tuner, "classification", samples, scores)


if __name__ == "__main__":
    main()
