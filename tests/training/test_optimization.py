from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining
from spectralgpt_hf.training.optimization import parameter_groups


def test_every_parameter_is_in_one_group_and_only_matrices_are_decayed():
    model = SpectralGPTForPreTraining(SpectralGPTConfig.from_preset("tiny"))
    decayed, free = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(map(id, decayed["params"] + free["params"])) == sorted(names)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert all(names[id(parameter)].endswith(".weight") for parameter in decayed["params"])
    free_names = {names[id(parameter)] for parameter in free["params"]}
    assert {"decoder.mask_token", "spectralgpt.layernorm.weight"} <= free_names
    assert sum(name.endswith("position_embeddings") for name in free_names) == 4
