"""Fine-tune SpectralGPT, or a baseline, to find what changed between two dates.

    python examples/finetune_change_detection.py --config examples/configs/oscd.yaml --data_dir OSCD \\
        --model_name_or_path spectralgpt-base-plus

Datasets: oscd, folder (`before/`, `after/` and `masks/`). Both dates of a scene are normalised with one set of
statistics; precision, recall and F1 are those of whole scenes, stitched from overlapping crops. `torchrun` and
`--resume_from_checkpoint last` work as in finetune_classification.py, and so does what is written.
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
    options.normalization_scope = options.normalization_scope or "given"  # each date alone would invent change
    set_seed(options.seed)

    samples = load_samples("change-detection", options, build_processor(options))
    weights = class_weights(options.class_weights, samples["train"])
    model = build_model("change-detection", options, samples["train"].class_names, weights)

    tuner = FineTuner(model, options, samples["train"], samples.get("validation"), weights)
    tuner.train(resume_from_checkpoint=options.resume_from_checkpoint)

    # Only now is the test split looked at.
    scores = {split: tuner.score(samples[split]) for split in samples if split != "train"}
    finish(tuner, "change-detection", samples, scores)


if __name__ == "__main__":
    main()
