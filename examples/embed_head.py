"""Write a fine-tuned checkpoint with a frozen encoder as an embedded checkpoint, which holds only the head.

    python examples/embed_head.py outputs/landcover/model spectralgpt_hf/assets/spectralgpt-tiny-landcover

The folder's `model.safetensors.index.json` names the file of the pretrained checkpoint for the tensors of the encoder.
`from_pretrained` reads them from there, so that several heads share one encoder. `spectralgpt publish` of an embedded
checkpoint uploads all of its weights, with the card in `spectralgpt_hf/hub/model_cards`.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spectralgpt_hf.assets import find_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="Folder of the fine-tuned checkpoint.")
    parser.add_argument("output", type=Path, help="Folder to write.")
    parser.add_argument("--base", default="tiny-zscore", help="Checkpoint that it started from. Default: %(default)s.")
    options = parser.parse_args()
    embed_head(options.checkpoint, options.output, Path(find_checkpoint(options.base)))


def embed_head(checkpoint: Path, output: Path, base: Path) -> None:
    """Write the head, the configuration and the processor of `checkpoint`, and where in `base` its encoder is.

    Raises:
        ValueError: If a tensor of the encoder differs from that of `base`.
    """
    tensors = load_file(checkpoint / "model.safetensors")
    encoder = load_file(base / "model.safetensors")
    shared = {name for name in tensors if name in encoder}
    for name in shared:
        # The base is stored in half precision, and was cast up before the head was trained.
        if not torch.equal(tensors[name].float(), encoder[name].float()):
            raise ValueError(f"{name} of {checkpoint} differs from that of {base}: train with `--freeze_encoder`.")
    if not shared:
        raise ValueError(f"{checkpoint} and {base} have no tensor in common.")
    output.mkdir(parents=True, exist_ok=True)
    head = {name: value.half() for name, value in tensors.items() if name not in shared}
    save_file(head, output / "head.safetensors", metadata={"format": "pt"})
    file = Path(os.path.relpath(base, output)) / "model.safetensors"
    index = {
        "metadata": {"total_size": sum(2 * value.numel() for value in tensors.values())},
        "weight_map": {name: file.as_posix() if name in shared else "head.safetensors" for name in sorted(tensors)},
    }
    (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(checkpoint / name, output / name)


if __name__ == "__main__":
    main()
