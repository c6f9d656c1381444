"""How long the head of segmentation takes, against the same decoder written out literally.

    python benchmarks/dense_head.py [--preset base] [--batch_size 2] [--device cpu] [--dtype float32]

Literal: plain transposed convolutions; feature maps resized to full resolution, concatenated, and only then convolved.
Both have the same weights and dropout. Printed: the time of forward + backward in training, relative to the literal
decoder, and the largest difference of their logits, relative to the largest logit. Runs alternate and the fastest of
each counts: whatever else a machine does only adds time.
"""

import argparse
import copy
import time

import torch
from torch import nn

from spectralgpt_hf import SpectralGPTConfig
from spectralgpt_hf.modeling.modeling_spectralgpt import (
    SpectralGPTConcatConv,
    SpectralGPTDecodeHead,
    SpectralGPTEnlargement,
    SpectralGPTForSemanticSegmentation,
    resize,
)


class LiteralConcatConv(SpectralGPTConcatConv):
    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        size = feature_maps[-1].shape[-2:]
        resized = [resize(feature_map, size) for feature_map in feature_maps[:-1]]
        return nn.Conv2d.forward(self, torch.cat([*resized, feature_maps[-1]], dim=1))


class LiteralDecodeHead(SpectralGPTDecodeHead):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        *levels, places = [branch(features) for branch in self.branches]
        pools = [
            projection(nn.functional.adaptive_max_pool2d(places, size))
            for projection, size in zip(self.pool_projections, self.pool_sizes)
        ]
        x1 = self.pool_fusion([*pools, places])
        top = self.top_projection(resize(x1, levels[2].shape[-2:])) + self.laterals[0](levels[2])
        x2 = self.merges[0](top)
        x3 = self.merges[1](resize(x2, levels[1].shape[-2:]) + self.laterals[1](levels[1]))
        x4 = self.merges[2](resize(x3, levels[0].shape[-2:]) + self.laterals[2](levels[0]))
        return self.classifier(self.level_fusion([x1, x2, x3, x4]))


LITERAL: dict[type, type] = {
    SpectralGPTDecodeHead: LiteralDecodeHead,
    SpectralGPTConcatConv: LiteralConcatConv,
    SpectralGPTEnlargement: nn.ConvTranspose2d,
}


def literal_copy(head: SpectralGPTDecodeHead) -> nn.Module:
    literal = copy.deepcopy(head)
    for module in literal.modules():
        module.__class__ = LITERAL.get(type(module), type(module))
        if isinstance(module, nn.Dropout):
            module.inplace = False
    return literal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--num_labels", type=int, default=13)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of automatic mixed precision")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)

    torch.manual_seed(0)
    config = SpectralGPTConfig.from_preset(
        options.preset, image_size=options.image_size, num_labels=options.num_labels, num_hidden_layers=1
    )
    ours = SpectralGPTForSemanticSegmentation(config).decode_head.to(options.device)
    heads = {"ours": ours, "literal": literal_copy(ours)}
    side = options.image_size // config.patch_size
    tokens = torch.randn(options.batch_size, side * side, config.hidden_size, device=options.device)
    features = tokens.transpose(1, 2).unflatten(2, (side, side)).requires_grad_()  # laid out as the model does

    with torch.no_grad():
        logits, expected = (head.eval()(features) for head in heads.values())
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()

    def seconds(head: nn.Module) -> float:
        start = time.perf_counter()
        with torch.autocast(options.device, dtype, enabled=dtype is not torch.float32):
            logits = head(features)
        logits.float().square().mean().backward()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times: dict[str, list[float]] = {name: [] for name in heads}
    for repeat in range(options.repeats + 1):
        for name, head in heads.items():
            elapsed = seconds(head.train())
            if repeat:  # the first round warms up
                times[name].append(elapsed)
    fastest = {name: min(values) for name, values in times.items()}
    print(
        f"{options.preset}, {options.image_size} px, batch {options.batch_size}, {options.device}, {options.dtype}, "
        f"{torch.get_num_threads()} threads: {fastest['ours'] / fastest['literal']:.2f} x the literal decoder's time "
        f"({fastest['ours']:.3g} s against {fastest['literal']:.3g} s); "
        f"largest relative difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
