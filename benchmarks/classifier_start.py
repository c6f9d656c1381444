"""Compare the linear discriminants that a classifier can start from, with few images of each class.

    python benchmarks/classifier_start.py EUROSAT [--checkpoint tiny-zscore]

Each draw takes a few images of each class of one part of EuroSAT, fits the discriminants, and scores them on all other
images of the part, and on those from blocks of half a degree without a drawn image. Printed is the mean accuracy over
the draws, for the statistics of bands alone, for the pooled features alone, for both in one discriminant, and for the
mean of two, with which `spectralgpt train classify` starts.
"""

import argparse
from pathlib import Path

import torch

from spectralgpt_hf import SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS
from spectralgpt_hf.training.few_labels import network_features, read_labelled
from spectralgpt_hf.training.pretraining_terms import view_statistics
from spectralgpt_hf.training.probing import draw_shots, linear_discriminant
from spectralgpt_hf.training.views import Views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eurosat", type=Path, help="Folder of EuroSAT's class folders and index.csv.")
    parser.add_argument("--checkpoint", default="tiny-zscore", help="Checkpoint. Default: %(default)s.")
    parser.add_argument("--part", default="choice", help="Part of index.csv. Default: %(default)s.")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 10], help="Images of each class.")
    parser.add_argument("--draws", type=int, default=40, help="Draws of these images. Default: %(default)s.")
    options = parser.parse_args()

    checkpoint = find_checkpoint(options.checkpoint)
    model = SpectralGPTModel.from_pretrained(checkpoint, dtype=torch.float32)
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    images = read_labelled(options.eurosat)
    part = images.of(options.part)
    pixels = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]
    views = Views(pixel_values=pixels, noise=torch.empty(0), attention_mask=None)
    statistics = view_statistics(views, model.config)[part]
    pooled, labels = network_features(model, processor, images, "pooled")[part], images.labels[part]
    blocks = [block for block, chosen in zip(images.blocks, part.tolist()) if chosen]
    both = torch.cat([pooled, statistics], dim=1)
    heads = {
        "statistics alone": (statistics, None),
        "features alone": (pooled, None),
        "both in one discriminant": (both, None),
        "mean of two discriminants": (both, [pooled.shape[1], statistics.shape[1]]),
    }
    num_classes = int(images.labels.max()) + 1
    print(f"{len(labels)} images of the part {options.part}, mean accuracy of {options.draws} draws")
    print(f"{'':28}{'per class':>10}{'all others':>14}{'other blocks':>14}")
    for name, (features, parts) in heads.items():
        for shots in options.shots:
            accuracies = []
            for draw in range(options.draws):
                drawn = draw_shots(labels, shots, draw)
                weight, bias = linear_discriminant(features[drawn], labels[drawn], num_classes, parts)
                correct = (features @ weight.T + bias).argmax(1) == labels
                others = torch.ones(len(labels), dtype=torch.bool)
                others[drawn] = False
                known = {blocks[number] for number in drawn.tolist()}
                elsewhere = torch.tensor([block not in known for block in blocks])
                accuracies.append([correct[chosen].float().mean() for chosen in (others, elsewhere)])
            mean = torch.tensor(accuracies).mean(0)
            print(f"{name:28}{shots:>10}" + "".join(f"{value:>14.3f}" for value in mean), flush=True)


if __name__ == "__main__":
    main()
