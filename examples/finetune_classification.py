"""Fine-tune SpectralGPT, or a baseline, to classify images: one class each, or several.

    python examples/finetune_classification.py --config examples/configs/eurosat.yaml --data_dir EuroSAT \\
        --model_name_or_path spectralgpt-base-plus

Datasets: eurosat, bigearthnet (version 1), bigearthnet-v2, fmow, folder (a folder for each class), shards.
`torchrun --nproc_per_node 8` in place of `python` uses eight GPUs. `--resume_from_checkpoint last` goes on after an
interruption. The finished model lies in `<output_dir>/model`, with `metrics.json`, a card and pictures.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("classification")
