"""Model cards: fixed texts for the paper's checkpoints, and a generated text for any other checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypedDict

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..modeling.bands import SENTINEL_2
from ..modeling.configuration_spectralgpt import PRESETS, SpectralGPTConfig


FOLDER = Path(__file__).parent / "model_cards"
# The cards of the files that the authors released for pretraining.
RELEASED = {"spectralgpt.pth": "spectralgpt-base", "spectralgpt+.pth": "spectralgpt-base-plus"}
# The tag of a card that describes an architecture without weights. Publishing refuses cards with this tag.
ARCHITECTURE_ONLY = "architecture-only"
# The names of checkpoints in their cards until they are published: `org/<name>` in the cards of this package, and this
# in generated ones, which are read where the checkpoint lies.
PLACEHOLDER = r"org/([\w-]+(?:\.[\w-]+)*)"
THIS_FOLDER = "path/to/this/folder"


class Source(TypedDict):
    """The original file of a converted checkpoint; `url` is None for a local file."""

    file: str
    url: str | None
    bytes: int
    sha256: str


class Record(TypedDict, total=False):
    """The origin of a checkpoint, for its card.

    A converted checkpoint has `source` and `architecture`; one trained here has `training`, a text about its training.
    """

    source: Source
    architecture: str
    training: str


def card_for(config: SpectralGPTConfig, record: Record | None = None) -> str:
    """Return the text of README.md for a checkpoint.

    The text calls the checkpoint `org/<name>`, or `THIS_FOLDER` if it is generated. Publishing replaces both by the
    name of the repository.

    Args:
        config: Configuration of the checkpoint.
        record: Origin of the checkpoint, for example the content of `conversion.json`. The pretrained files that the
            authors released have cards of their own. The card of any other checkpoint is generated from the
            configuration and the record; without a record it asks the reader to describe the training.
    """
    record = record or {}
    source = record.get("source")
    architecture = record.get("architecture") or (config.architectures or ["SpectralGPTModel"])[0]
    name = RELEASED.get(source["file"].lower()) if source else None
    is_base = all(getattr(config, key) == value for key, value in PRESETS["base"].items())
    if name and is_base and architecture == "SpectralGPTForPreTraining":
        return (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    use = USES.get(architecture, FEATURES)
    has_classes = use is not FEATURES
    return front_matter(use.pipeline_tag, config.sensor) + TEMPLATE.format(
        **use._asdict(),
        architecture=architecture,
        checkpoint=THIS_FOLDER,
        config=config,
        bands=" ".join(config.bands or ()),
        sensor=config.expected_sensor,
        classes=f"Classes: {', '.join((config.id2label or {}).values())}.\n\n" if has_classes else "",
        provenance=CONVERTED.format(**source) if source else record.get("training", UNKNOWN),
    )


def front_matter(pipeline_tag: str | None = None, sensor: str = SENTINEL_2.name) -> str:
    """Return the YAML metadata at the top of a card, between two lines of `---`.

    Args:
        pipeline_tag: The Hub's name of the model's task, if it has one.
        sensor: Name of the sensor that the model takes.
    """
    tags = ["remote-sensing", sensor, "multispectral"]
    data = ModelCardData(library_name="transformers", pipeline_tag=pipeline_tag, license="unknown", tags=tags)
    return f"---\n{data.to_yaml()}\n---\n\n"


def check_card(card: str) -> None:
    """Check the metadata of a model card without the Hub, which checks them again at each commit.

    Raises:
        ValueError: If an entry is missing, if the Hub would not accept it, or if the card describes an architecture
            without weights. The message lists all problems.
    """
    try:
        data = ModelCard(card).data
    except Exception as error:  # the errors of YAML and of the Hub's client have no common base
        raise ValueError(f"README.md: the metadata cannot be read: {error}") from error
    problems = [
        f"`{key}` must be {rule.expected}, found {data.get(key)!r}"
        for key, rule in RULES.items()
        if not rule.accepts(data.get(key))
    ]
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        problems.append("`license: other` needs `license_name` and `license_link`")
    if ARCHITECTURE_ONLY in data.get("tags", ()):
        problems.append(
            f"the tag `{ARCHITECTURE_ONLY}` says that there are no weights: describe how yours were trained, then "
            "remove it"
        )
    if problems:
        raise ValueError("README.md cannot be published:\n  " + "\n  ".join(problems))


def name_repository(card: str, repo_id: str) -> str:
    """Replace the placeholders of a card: its own by `repo_id`, those of other checkpoints by names beside it."""
    own = re.search(rf'"{PLACEHOLDER}"', card)  # the first checkpoint that the card's code loads is its own
    namespace = repo_id.rpartition("/")[0]

    def name(found: re.Match[str]) -> str:
        return repo_id if own and found[1] == own[1] else f"{namespace}/{found[1]}".lstrip("/")

    return re.sub(rf"(?<![\w./-]){PLACEHOLDER}", name, card).replace(f'"{THIS_FOLDER}"', f'"{repo_id}"')


class _Use(NamedTuple):
    purpose: str
    pipeline_tag: str
    pipeline: str
    inputs: str


FEATURES = _Use("features", "image-feature-extraction", "multispectral-feature-extraction", '"scene.tif"')
USES = {
    "SpectralGPTForImageClassification": _Use(
        "image classification", "image-classification", "multispectral-image-classification", '"scene.tif"'
    ),
    "SpectralGPTForSemanticSegmentation": _Use(
        "segmentation", "image-segmentation", "multispectral-image-segmentation", '"scene.tif"'
    ),
    "SpectralGPTForChangeDetection": _Use(
        "change detection", "image-segmentation", "multispectral-change-detection", '("before.tif", "after.tif")'
    ),
}

TEMPLATE = """# SpectralGPT for {purpose}

A `{architecture}` for {sensor}: {config.num_hidden_layers} layers, {config.hidden_size} wide, images of \
{config.image_size} × {config.image_size} px, tokens of {config.spectral_patch_size} bands × {config.patch_size} × \
{config.patch_size} pixels.

Bands: {bands}. The processor finds them by name and normalises them as the checkpoint expects.

{classes}## Use

```python
from transformers import pipeline

run = pipeline("{pipeline}", model="{checkpoint}", trust_remote_code=True)
result = run({inputs})
```

## Provenance and licence

{provenance}

The architecture is that of Hong et al., *SpectralGPT: Spectral Remote Sensing Foundation Model*, IEEE TPAMI 46(8), 2024
(arXiv 2311.07113). The code beside the weights is Apache-2.0.
"""
CONVERTED = """Converted from `{file}`, SHA-256 `{sha256}`; `conversion.json` lists the source of each tensor.
The licence of the weights is not stated here because it is not known to us: check it at their source before you use or
share them."""
UNKNOWN = (
    "If you trained this checkpoint, state here on which data, how, with which scores, and under which licence it is "
    "published."
)


class _Rule(NamedTuple):
    accepts: Callable[[object], bool]
    expected: str


def _matches(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_model_name(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def _all(accepts: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda values: isinstance(values, list) and all(map(accepts, values))


# What each entry must be, by the rules of the Hub and of this project.
RULES = {
    "library_name": _Rule(lambda value: value == "transformers", "'transformers'"),
    "pipeline_tag": _Rule(_matches(r"[a-z0-9-]+"), "a task of the Hub, such as 'image-feature-extraction'"),
    "license": _Rule(
        _matches(r"[a-z0-9][a-z0-9.+-]*"), "one of the Hub's identifiers: 'apache-2.0', 'other', 'unknown'"
    ),
    "tags": _Rule(_all(_matches(r"\S.*")), "a list of words"),
    "datasets": _Rule(
        lambda value: value is None or _all(_matches(r"[\w.-]+(/[\w.-]+)?"))(value), "a list of names without spaces"
    ),
    "base_model": _Rule(
        lambda value: value is None or _is_model_name(value) or _all(_is_model_name)(value),
        "a model's name, or several",
    ),
}
