"""Pretrain SpectralGPT on Parquet shards, in one stage or several.

    accelerate launch examples/pretrain.py --data shards --output_dir outputs/tiny --epochs 20

`spectralgpt_hf/commands/pretrain.py` has the loop, and opens with further launch recipes.
"""

from spectralgpt_hf.commands.pretrain import main


if __name__ == "__main__":
    main()
