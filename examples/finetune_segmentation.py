"""Fine-tune SpectralGPT, or a baseline, to give every pixel a class.

    python examples/finetune_segmentation.py --config examples/configs/segmunich.yaml --data_dir SegMunich \\
        --model_name_or_path spectralgpt-base-plus

Datasets: segmunich, bigearthnet-v2 (its reference maps), folder (`images/` and `masks/` with `--class_names`; images
larger than `image_size` are cut into crops, and stitched again before they are scored). `torchrun` and
`--resume_from_checkpoint last` work as in finetune_classification.py, and so does what is written.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("segmentation")
