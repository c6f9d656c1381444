"""Fine-tune SpectralGPT, or a baseline, to give every pixel a class.

    python examples/finetune_segmentation.py --config examples/configs/segmunich.yaml --data_dir SegMunich \\
        --model_name_or_path spectralgpt-base-plus

Datasets: segmunich, bigearthnet-v2 (its reference maps), folder. In a folder of your own, `images/` and `masks/` (or
`labels/`), or names such as `a_mask.tif`, tell which files are maps, with or without folders `train/`, `val/` and
`test/`; `table.csv` may state split, site, offset and nodata of each image, and `--classes 1=water,2=trees` names the
codes of the maps. `--dry_run` stops after a summary. Images larger than `image_size` are cut into crops; scores are
those of the maps that `predict_scene` blends. `torchrun` and `--resume_from_checkpoint last` work as in
finetune_classification.py, which also says what is written.
"""

from spectralgpt_hf.commands.train import main


if __name__ == "__main__":
    main("segmentation")
