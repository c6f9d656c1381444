"""Fine-tune SpectralGPT, or a baseline, to detect changes between two dates.

    python examples/finetune_change_detection.py --config examples/configs/oscd.yaml --data_dir OSCD \\
        --model_name_or_path spectralgpt-base-plus

Datasets: oscd, folder (`before/`, `after/` and `masks/`, or names that start with pre_, post_ and mask_). Both dates of
a scene are normalised with one set of statistics. Precision, recall and F1 are those of whole scenes, blended from
overlapping tiles as in `predict_scene`. `torchrun`, `--resume_from_checkpoint last` and the written files are as in
finetune_classification.py.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("change-detection")
