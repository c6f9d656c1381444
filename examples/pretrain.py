"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

On one machine, from files at hand:

    spectralgpt prepare scene.tif other_scene/ shards
    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

The paper's two stages on 8 GPUs. A YAML file holds the options. Each entry of its `stages` lists the options that
differ between stages (data, image size, epochs, learning rate, masking, bands), and each stage continues the one
before:

    accelerate launch --config_file examples/accelerate_configs/ddp_8_gpus.yaml examples/pretrain.py \\
        --config examples/configs/pretrain_base.yaml --resume auto

From a published checkpoint. An option on the command line overrides the file and all of its stages:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_tiny.yaml --data shards \\
        --model_name_or_path org/spectralgpt-base --base_learning_rate 1e-4

Order, crops, flips and masks are functions of (seed, epoch, sample). A run that is killed and resumed therefore has the
same losses, on a CPU to the last bit. The result is `OUTPUT_DIR/model`; `log.jsonl`, `pictures` and `checkpoints` are
written beside it.
"""

from spectralgpt_hf.commands.pretrain import main


if __name__ == "__main__":
    main()
