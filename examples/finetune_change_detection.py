"""Fine-tune SpectralGPT, or a baseline, to find what changed between two dates.

    python examples/finetune_change_detection.py --config examples/configs/oscd.yaml --data_dir OSCD \\
        --model_name_or_path spectralgpt-base-plus

Datasets: oscd, folder (`before/`, `after/` and `masks/`). Both dates of a scene are normalised with one set of
statistics; precision, recall and F1 are those of whole scenes, stitched from overlapping crops. `torchrun` and
`--resume_from_checkpoint last` work as in finetune_classification.py, and so does what is written.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("change-detection")
