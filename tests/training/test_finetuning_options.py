"""Every option of fine-tuning changes the run and is recorded, or is refused where it would change nothing.

The test goes through the fields of the dataclass: a new option fails it until it is listed below, with an example that
changes something or with the reason why it cannot.
"""

from dataclasses import fields

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainingArguments, set_seed

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification, SpectralGPTImageProcessor
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.arguments import parse_options
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.models import build_model, build_processor
from spectralgpt_hf.training.options import APPLIES, NOT_RECORDED, FineTuningOptions
from spectralgpt_hf.training.samples import class_weights, load_samples
from tests.data.files import write_image


TOY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,decode_hidden_size=16"
IMAGES, MAPS, CHANGE = "classification", "segmentation", "change-detection"
ZSCORE = {"normalization": "zscore", "mean": [1500.0] * 12, "std": [700.0] * 12}
GIVEN = {"statistics_scope": "given", "normalization": "percentile"}
PRETRAINED = {"config_name": None, "config_overrides": None}

# For each option the task, what it needs beside it, and a value that changes the run.
EXAMPLES = {
    "dataset": (IMAGES, {"data_dir": "both"}, "shards"),
    "data_dir": (IMAGES, {}, "other"),
    "train_split": (IMAGES, {"validation_split": "validation"}, "test"),
    "validation_split": (IMAGES, {}, "test"),
    "test_split": (IMAGES, {}, "none"),
    "train_share": (IMAGES, {}, 0.5),
    "classes": (MAPS, {}, "0=water,1=land,2=ice"),
    "class_names": (MAPS, {}, ["water", "land", "ice"]),
    "ignored_codes": (MAPS, {}, [2]),
    "band_names": (IMAGES, {}, list(L2A_BANDS[::-1])),
    "images": (MAPS, {}, "other_images"),
    "before": (CHANGE, {}, "other_before"),
    "after": (CHANGE, {}, "other_after"),
    "masks": (MAPS, {}, "other_masks"),
    "holdout": (MAPS, {}, "spatial"),
    "crop_stride": (MAPS, {}, 8),
    "series": (IMAGES, {"data_dir": "dated"}, True),
    "offset": (IMAGES, ZSCORE, -100.0),
    "nodata": (IMAGES, {}, 2000.0),
    "model_name_or_path": (IMAGES, PRETRAINED | {"model_name_or_path": "pretrained"}, "other_pretrained"),
    "config_name": (IMAGES, {"config_overrides": "hidden_size=96,num_hidden_layers=1"}, "base"),
    "config_overrides": (IMAGES, {}, TOY + ",classifier_dropout=0.5"),
    "image_size": (IMAGES, {}, 24),
    "bands": (IMAGES, {}, list(L2A_BANDS[::-1])),
    "normalization": (IMAGES, {}, "percentile"),
    "statistics_scope": (MAPS, {}, "image"),
    "statistics": (MAPS, GIVEN, "dataset"),
    "mean": (IMAGES, ZSCORE, [1000.0] * 12),
    "std": (IMAGES, ZSCORE, [300.0] * 12),
    "missing_bands": (IMAGES, {"data_dir": "eleven", "band_names": None, "missing_bands": "nearest"}, "mean"),
    "freeze_encoder": (IMAGES, {}, True),
    "lora_rank": (IMAGES, {}, 2),
    "drop_path_rate": (IMAGES, {}, 0.5),
    "base_learning_rate": (IMAGES, {}, 1e-2),
    "layer_decay": (IMAGES, {}, 0.5),
    "epoch_decay": (IMAGES, {}, 0.5),
    "warmup_ratio": (IMAGES, {}, 0.5),
    "frozen_share": (IMAGES, {}, 0.5),
    "probe_first": (IMAGES, {}, True),
    "class_weights": (IMAGES, {}, "0.4,1.6"),
    "early_stopping_patience": (IMAGES, {}, 3),
    "crop_scale": (IMAGES, {}, 0.3),
    "symmetries": (IMAGES, {}, True),
    "mixup": (IMAGES, {}, 0.8),
    "cutmix": (IMAGES, {}, 1.0),
    "label_smoothing": (IMAGES, {}, 0.1),
    "random_erasing": (IMAGES, {}, 1.0),
    "eval_resize": (IMAGES, {}, 24),
    "bootstrap_resamples": (IMAGES, {"train_split": "all", "validation_split": "all", "test_split": "none"}, 50),
}
ELSEWHERE = {name: "tested on Landsat in commands/test_other_sensor_runs.py" for name in ("sensor", "wavelengths")}
ELSEWHERE |= {"hub_dataset": "tested in commands/test_train.py"}
OPERATIONAL = {
    "dry_run": "stops before training",
    "in_memory": "keeps the samples that were read",
    "revision": "names a commit on the Hub, which this test does not reach",
}
OWN = {entry.name for entry in fields(FineTuningOptions)} - {entry.name for entry in fields(TrainingArguments)}


def random_image(seed: int, count: int = 12, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, (count, side, side), dtype=np.uint16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of images, maps and pairs, shards, and two pretrained checkpoints."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "validation", "test"):
        images = [(f"{split} {number}", random_image(number), number % 2) for number in range(4)]
        rows = [ShardRow(id=name, pixels=pixels, bands=L2A_BANDS, label=label) for name, pixels, label in images]
        write_shards(rows, root / "both", split=split, class_names=["a", "b"])
    for folder, bands in (("images", 12), ("other", 12), ("both", 12), ("eleven", 11)):
        for number in range(12):
            seed = number + 100 * (folder == "other")
            path = root / folder / "ab"[number % 2] / f"{number}.tif"
            write_image(path, random_image(seed, bands))
    for number in range(12):  # six sites at two dates
        name = f"{number // 2}_2020010{number % 2 + 1}.tif"
        write_image(root / "dated" / "ab"[number // 2 % 2] / name, random_image(number))
    for number in range(4):
        codes = np.random.default_rng(number).integers(0, 3, (48, 48)).astype(np.uint8)
        for name, seed in (("images", 0), ("other_images", 50)):
            write_image(root / MAPS / name / f"{number}.tif", random_image(number + seed, side=48))
        for name, turned in (("masks", codes), ("other_masks", codes[::-1])):
            write_image(root / MAPS / name / f"{number}.png", turned)
        for position, name in enumerate(("before", "after", "other_before", "other_after")):
            write_image(root / CHANGE / name / f"{number}.tif", random_image(10 * number + position))
        write_image(root / CHANGE / "masks" / f"{number}.png", codes[:24, :24] % 2)
    for seed, name in enumerate(("pretrained", "other_pretrained")):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        SpectralGPTForImageClassification(SpectralGPTConfig(**sizes, image_size=16)).save_pretrained(root / name)
        SpectralGPTImageProcessor().save_pretrained(root / name)
    return root


def build_options(data, task: str, **changes) -> FineTuningOptions:
    settings = {
        "config_name": "tiny",
        "config_overrides": TOY,
        "image_size": 16,
        "use_cpu": True,
        "seed": 0,
        "report_to": [],
        "output_dir": str(data / "output"),
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
        "bootstrap_resamples": 2,
        "data_dir": {IMAGES: "images"}.get(task, task),
        "band_names": list(L2A_BANDS),
        **changes,
    }
    if settings["data_dir"] == "eleven":  # shards and tables would name the bands; a file of eleven cannot
        settings["band_names"] = list(L2A_BANDS[:-1])
    settings["data_dir"] = str(data / settings["data_dir"])
    if settings.get("dataset") == "shards":
        settings["band_names"] = None
    if settings.get("model_name_or_path"):
        settings["model_name_or_path"] = str(data / settings["model_name_or_path"])
    return FineTuningOptions(**settings)


def observe(task: str, options: FineTuningOptions) -> str:
    """Return what a run with these options would do, as text: samples, model, a step, a schedule, scores."""
    options.check_applies(task)
    set_seed(0)
    samples = load_samples(task, options, build_processor(options, task))
    train = samples["train"]
    weights = class_weights(options.class_weights, train)
    set_seed(0)
    model = build_model(task, options, train.class_names, weights, train.problem_type)
    tuner = FineTuner(model, options, train, samples.get("validation"), weights)
    batch = tuner.data_collator([train[index] for index in range(min(4, len(train)))])
    torch.manual_seed(0)
    loss = tuner.compute_loss(tuner.model.train(), batch)
    loss.backward()
    gradients = {name: p.grad.norm().item() for name, p in tuner.model.named_parameters() if p.grad is not None}
    tuner.create_optimizer_and_scheduler(num_training_steps=12)
    rates = []
    for _ in range(12):
        tuner.optimizer.step()
        tuner.lr_scheduler.step()
        rates.append(tuner.lr_scheduler.get_last_lr())
    splits = {name: [list(part.dataset["id"]), part.class_names] for name, part in samples.items()}
    scores = {name: tuner.score(part) for name, part in samples.items() if name == "validation"}
    stopping = [
        vars(callback)
        for callback in tuner.callback_handler.callbacks
        if type(callback).__name__ in ("EarlyStoppingCallback", "FrozenStart")
    ]
    config = model.config.to_dict() | {"_name_or_path": ""}
    return repr([splits, train.processor.to_dict(), config, loss.item(), gradients, rates, scores, stopping])


def test_every_option_is_listed():
    assert set(EXAMPLES) | set(OPERATIONAL) | set(ELSEWHERE) == OWN
    assert not set(EXAMPLES) & set(OPERATIONAL)
    assert set(APPLIES) <= OWN
    assert set(NOT_RECORDED) <= OWN
    assert set(OPERATIONAL) - {"revision"} <= set(NOT_RECORDED)  # the weights of a run depend on the revision


@pytest.fixture(scope="module")
def before(data):
    """What runs do without an option, each computed once."""
    seen = {}

    def run(task, base):
        key = repr((task, sorted(base.items())))
        if key not in seen:
            seen[key] = observe(task, build_options(data, task, **base))
        return seen[key]

    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_changes_the_run_and_is_recorded(name, data, before):
    task, base, value = EXAMPLES[name]
    expected = before(task, base)
    options = build_options(data, task, **base | {name: value})
    assert observe(task, options) != expected
    if name not in NOT_RECORDED:
        assert options.recorded()[name] == value
    assert "nothing" not in repr(options.recorded())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_line_is_the_file_is_python(name, data, tmp_path):
    task, base, value = EXAMPLES[name]
    changes = {"model_name_or_path": None, "config_name": "tiny"} if task == IMAGES else {}
    expected = build_options(data, task, **changes | base | {name: value})
    names = {"config_name", "model_name_or_path", "band_names", "dataset", name, *base, *changes}
    given = {key: getattr(expected, key) for key in sorted(names) if getattr(expected, key) is not None}
    given |= {"output_dir": expected.output_dir, "use_cpu": True}
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump(given))
    arguments = []
    for key, found in given.items():
        arguments += [f"--{key}", *map(str, found if isinstance(found, list) else [found])]
    for found in (
        parse_options(FineTuningOptions, arguments),
        parse_options(FineTuningOptions, ["--config", str(file)]),
    ):
        for key in OWN:
            assert key not in given or getattr(found, key) == getattr(expected, key), key


@pytest.mark.parametrize("name", APPLIES)
def test_an_option_is_refused_where_it_has_no_effect(name, data):
    task, _, value = EXAMPLES[name]
    others = {IMAGES, MAPS, CHANGE} - {task}
    refused = 0
    for other in sorted(others):
        if APPLIES[name][0](other, "folder", None):
            continue
        with pytest.raises(ValueError, match=f"`{name}` is for .*, and has no effect for {other}"):
            build_options(data, other, **{name: value}).check_applies(other)
        refused += 1
    if not refused:  # it depends on the dataset or the labels
        options = build_options(data, task, **{"dataset": "fmow", "band_names": None, name: value})
        with pytest.raises(ValueError, match=f"`{name}` is for .*, and has no effect for {task}"):
            options.check_applies(task, "multi_label_classification")


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("name", ["mixup", "cutmix", "label_smoothing"])
def test_mixed_labels_are_refused_where_images_have_no_single_label(name, problem_type, data):
    with pytest.raises(ValueError, match=f"`{name}` is for classification with one label per image"):
        build_options(data, IMAGES, **{name: 0.5}).check_applies(IMAGES, problem_type)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": "sgd"}, "`optim` has no effect here"),
        ({"label_smoothing_factor": 0.1}, "pass `label_smoothing`"),
        ({"metric_for_best_model": "accuracy"}, "the main score of the task chooses"),
        ({"epoch_decay": 0.9, "warmup_ratio": 0.1}, "`epoch_decay` replaces the schedule, and warmup_ratio"),
        ({"epoch_decay": 0.9, "lr_scheduler_type": "cosine"}, "and lr_scheduler_type with it"),
        ({"base_learning_rate": 1e-3, "learning_rate": 1e-3}, "`base_learning_rate` replaces `learning_rate`"),
    ],
)
def test_options_that_others_replace_are_refused(changes, message, data):
    with pytest.raises(ValueError, match=message):
        build_options(data, IMAGES, **changes)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (IMAGES, {"mean": [1.0] * 12, "std": [1.0] * 12}, "`mean` and `std` are for zscore and sigma_clip, not minmax"),
        (MAPS, {"statistics": "dataset", "statistics_scope": "image"}, "pass `--statistics_scope given`"),
        (IMAGES, {"config_overrides": "hiden_size=32"}, "has no attribute hiden_size"),
        (
            IMAGES,
            PRETRAINED | {"model_name_or_path": "pretrained", "config_overrides": "hiden_size=32"},
            "`config_overrides`: spectralgpt has no hiden_size",
        ),
        (
            IMAGES,
            {"config_name": "vit", "config_overrides": "hiden_size=32"},
            "`config_overrides`: vit has no hiden_size",
        ),
        (
            IMAGES,
            {"config_name": "vit", "config_overrides": None, "drop_path_rate": 0.1, "freeze_encoder": True},
            "vit has no stochastic depth",
        ),
        (
            IMAGES,
            {"config_name": "vit", "config_overrides": None, "layer_decay": 0.5},
            "SpectralGPT, found vit",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_options_that_do_not_fit_each_other_are_refused(task, changes, message, data):
    with pytest.raises(ValueError, match=message):
        observe(task, build_options(data, task, **changes))
