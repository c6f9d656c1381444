"""Fine-tune SpectralGPT, or a baseline, to classify every pixel.

    python examples/finetune_segmentation.py --config examples/configs/segmunich.yaml --data_dir SegMunich \\
        --model_name_or_path spectralgpt-base-plus

Datasets: segmunich, bigearthnet-v2 (its reference maps), folder. In your own folder, maps are found by folders
`images/` and `masks/` (or `labels/`), or by names such as `a_mask.tif`, with or without folders `train/`, `val/` and
`test/`. `table.csv` may state split, site, offset and nodata of each image, and `--classes 1=water,2=trees` names the
codes of the maps. `--dry_run` stops after a summary. Images larger than `image_size` are cut into crops. Scores are
those of the maps that `predict_scene` blends. `torchrun`, `--resume_from_checkpoint last` and the written files are as
in finetune_classification.py.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("segmentation")
