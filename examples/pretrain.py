"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

    spectralgpt prepare scene.tif other_scene/ shards
    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

Options may come from a YAML file, which the command line overrides. Its `stages` are lists of options that differ from
stage to stage (data, image size, epochs, learning rate, masking, bands); each goes on from the one before:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_base.yaml --resume auto

Order, crops, flips and masks are functions of (seed, epoch, sample): a run that is killed and resumed gives the same
losses, to the last bit on CPU. `OUTPUT_DIR/model` is the result, beside `log.jsonl`, `pictures` and `checkpoints`.
"""

from spectralgpt_hf.commands.pretrain import main


if __name__ == "__main__":
    main()
