"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

On one machine, from files at hand:

    spectralgpt prepare scene.tif other_scene/ shards
    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

The paper's two stages on 8 GPUs. A YAML file holds the options; each entry of its `stages` lists what differs from
stage to stage (data, image size, epochs, learning rate, masking, bands), and starts from the result of the one before:

    accelerate launch --config_file examples/accelerate_configs/ddp_8_gpus.yaml examples/pretrain.py \\
        --config examples/configs/pretrain_base.yaml --resume auto

From a published checkpoint, with an option of the command line, which wins over the file and all of its stages:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_tiny.yaml --data shards \\
        --model_name_or_path org/spectralgpt-base --base_learning_rate 1e-4

Order, crops, flips and masks are functions of (seed, epoch, sample): a run that is killed and resumed gives the same
losses, to the last bit on CPU. `OUTPUT_DIR/model` is the result, beside `log.jsonl`, `pictures` and `checkpoints`.
"""

from spectralgpt_hf.commands.pretrain import main


if __name__ == "__main__":
    main()
