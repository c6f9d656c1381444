"""What pretraining has taught checkpoints, measured on labelled chips: reconstruction and a land-use probe.

    python examples/evaluate_pretraining.py --data chips/ --checkpoints before/ after/ --output scores.json

`--data` is a folder with `L1C/<chip>.tif`, 13 bands in the order of the product, and `LULC/<chip>.tif`, classes with
0 for unknown, on the same grid. Chips are normalised as a whole and seen in crops of the model's own size: a chip of
224 px in four of 128 px, which overlap. Nothing is tuned on the scores.

Reconstruction: most tokens of each crop are masked, with several seeds. Errors are of the masked pixels, in
reflectance; all crops and seeds of a chip count together. The other ways use only what is visible.

Land use: classifiers read the most frequent class of tiles of 16 px off frozen features, averaged over the tile and
over the crops that hold it. Each chip is predicted by a classifier trained on the others; only classes count that occur
in two chips or more, and only chips that hold one of them. The same network untrained, with several seeds, shows what
its structure alone gives. Features are also taken of tiles alone, without the rest of the crop: what a tile takes over
from its surroundings tells the chip rather than the class.
"""

from spectralgpt_hf.commands.evaluate import main


if __name__ == "__main__":
    main()
