"""Train twice in two processes, replicated and sharded, and print both losses of each step."""

import copy
import json

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.modeling.modeling_spectralgpt import SpectralGPTLayer
from spectralgpt_hf.training.optimization import parameter_groups
from tests.parity import config


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    sharded = SpectralGPTForPreTraining(config("toy"))
    replicated = DistributedDataParallel(copy.deepcopy(sharded))
    for module in sharded.modules():
        if isinstance(module, SpectralGPTLayer):
            fully_shard(module)
    fully_shard(sharded)

    torch.manual_seed(dist.get_rank())
    size = config("toy").image_size
    images = torch.rand(10, 2, config("toy").num_channels, size, size)
    noise = torch.rand(10, 2, (config("toy").num_channels // 3) * (size // 8) ** 2)
    losses = []
    for model in (replicated, sharded):
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-2, betas=(0.9, 0.95), fused=True)
        losses.append([])
        for step in range(10):
            loss = model(images[step], noise=noise[step]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            losses[-1].append(mean.item())
    if dist.get_rank() == 0:
        all_sharded = all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
        result = {"processes": dist.get_world_size(), "sharded": all_sharded, "losses": losses}
        print(json.dumps(result))  # noqa: T201
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
