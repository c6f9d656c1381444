"""Fine-tune SpectralGPT, or a baseline, to find what changed between two dates.

    python examples/finetune_change_detection.py --config examples/configs/oscd.yaml --data_dir OSCD \\
        --model_name_or_path spectralgpt-base-plus

Datasets: oscd, folder (`before/`, `after/` and `masks/`, or names that start with pre_, post_ and mask_). Both dates of
a scene are normalised with one set of statistics; precision, recall and F1 are those of whole scenes, blended from
overlapping tiles as `predict_scene` does. `torchrun` and `--resume_from_checkpoint last` work as in
finetune_classification.py, which also says what is written.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("change-detection")
