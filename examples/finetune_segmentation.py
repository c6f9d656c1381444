"""Fine-tune SpectralGPT, or a baseline, to give every pixel a class.

    python examples/finetune_segmentation.py --config examples/configs/segmunich.yaml --data_dir SegMunich \\
        --model_name_or_path spectralgpt-base-plus

Datasets: segmunich, bigearthnet_v2 (its reference maps), folder (`images/` and `masks/` with `--class_names`; images
larger than `image_size` are cut into crops, and stitched again before they are scored). `torchrun` and
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
    set_seed(options.seed)

    samples = load_samples("segmentation", options, build_processor(options))
    names = samples["train"].class_names
    weights = class_weights(options.class_weights, samples["train"])
    model = build_model("segmentation", options, names, weights)

    background = names.index("Background") if "Background" in names else None
    tuner = FineTuner(model, options, samples["train"], samples.get("validation"), weights, background)
    tuner.train(resume_from_checkpoint=options.resume_from_checkpoint)

    # Only now is the test split looked at.
    scores = {split: tuner.score(samples[split]) for split in samples if split != "train"}
    finish(tuner, "segmentation", samples, scores)


if __name__ == "__main__":
    main()
