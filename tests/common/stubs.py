"""What the common tests import but the source archive lacks.

`MODULES` names each by the module that is imported. The first two would test what our models do not have (`generate`)
or what `tests/conversion` tests (export to ONNX); their mixins are empty here.
"""

from types import ModuleType


class ExportTesterMixin:
    """Empty: stands for the tests of `torch.export`, ONNX and ExecuTorch."""


class GenerationTesterMixin:
    """Empty: stands for the tests of `generate`, which no class of ours has."""


# An unusual value for each attribute that every configuration has; `ConfigTester` looks whether it is kept.
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SpectralGPTModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
    "is_encoder_decoder": False,
}


def url_to_local_path(url: str) -> str:
    """Refuse: the images of transformers' own repository are not in the archive, and tests never reach out."""
    raise AssertionError(f"a common test needs {url}")


def modules(package: str) -> dict[str, ModuleType]:
    """Return the missing modules by full name. `package` is the name under which the archive's tests are imported."""
    contents = {
        f"{package}.exporters": {},
        f"{package}.exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
        f"{package}.generation": {},
        f"{package}.generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
        f"{package}.utils": {},
        f"{package}.utils.test_configuration_utils": {"config_common_kwargs": config_common_kwargs},
        "fetch_hub_objects_for_ci": {"url_to_local_path": url_to_local_path},  # of the repository's `utils/`
    }
    made = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        vars(made[name]).update(values)
    return made
