"""The real peers without CUDA.

Wheels of torchvision on PyPI are linked against CUDA, so with a CPU build of torch their compiled operators do not
load, and the import ends at the first operator that it describes. TorchGeo and TerraTorch need torchvision's Python
only (transforms, weights, types). So these operators are declared here, without an implementation, before the import.
"""

from importlib.util import find_spec

import torch


if find_spec("torchvision") is not None and torch.version.cuda is None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as this module
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
