"""Fine-tune SpectralGPT, or a baseline, to classify images with one class or several classes each.

    python examples/finetune_classification.py --config examples/configs/eurosat.yaml --data_dir EuroSAT \\
        --model_name_or_path spectralgpt-base-plus

Datasets: eurosat, bigearthnet-v1, bigearthnet-v2, fmow, folder (a folder for each class), shards.
`torchrun --nproc_per_node 8` instead of `python` uses eight GPUs. `--resume_from_checkpoint last` resumes an
interrupted run. The finished model is written to `<output_dir>/model`, with `metrics.json`, a card and pictures.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("classification")
