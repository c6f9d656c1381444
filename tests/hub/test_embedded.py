"""Checkpoints that come with the package are published complete, with their own cards."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, load_file

from spectralgpt_hf.assets import FOLDER, TASK_CHECKPOINTS, find_checkpoint
from spectralgpt_hf.hub import check_checkpoint, publish
from spectralgpt_hf.hub.cards import FOLDER as CARDS
from spectralgpt_hf.hub.cards import name_repository
from spectralgpt_hf.hub.embedded import folder_to_publish, write_complete
from spectralgpt_hf.inference.checkpoints import load_model
from tests.hub.test_publish import hub, quick  # noqa: F401


NAMES = sorted(folder.parent.name for folder in FOLDER.glob("*/config.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_complete_copy_has_the_weights_settings_and_card_of_the_embedded_checkpoint(name, tmp_path):
    embedded = Path(find_checkpoint(name))
    write_complete(embedded, tmp_path)
    ours, theirs = (load_model(str(folder), "cpu") for folder in (embedded, tmp_path))
    torch.testing.assert_close(theirs[0].state_dict(), ours[0].state_dict(), rtol=0, atol=0)
    assert theirs[0].dtype == torch.float32
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert ours[1].to_dict() == theirs[1].to_dict()
    assert (tmp_path / "README.md").read_bytes() == (CARDS / f"{name}.md").read_bytes()


@pytest.mark.parametrize("source", ["tiny-eurosat", "tiny-landcover", TASK_CHECKPOINTS["change"]])
def test_a_fine_tuned_checkpoint_is_published_whole_with_its_own_card(hub, quick, source):  # noqa: F811
    folder = Path(find_checkpoint(source))
    publish(source, "lab/mine")
    files = hub.repositories["lab/mine"].files
    own = (CARDS / f"{folder.name}.md").read_text(encoding="utf-8")
    card = files["README.md"].decode()
    assert card == name_repository(own, "lab/mine")
    assert 'from_pretrained("lab/mine")' in card
    assert ModelCard(card).data.base_model == "lab/spectralgpt-tiny-zscore"
    assert load(files["model.safetensors"]).keys() == load_model(str(folder), "cpu")[0].state_dict().keys()
    assert "head.safetensors" not in files


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_complete_copy_computes_the_same_where_this_package_is_not_installed(name, tmp_path):
    write_complete(Path(find_checkpoint(name)), tmp_path)
    check_checkpoint(tmp_path)


def test_only_embedded_checkpoints_are_copied(tmp_path):
    with folder_to_publish(tmp_path) as folder:
        assert folder == tmp_path
    with folder_to_publish("tiny-change") as copy:
        assert copy.parent != FOLDER
        assert (copy / "README.md").is_file()
    assert not copy.exists()


@pytest.mark.parametrize("name", ["tinny", "org/spectralgpt-tiny"])
def test_what_is_neither_a_folder_nor_embedded_cannot_be_published(name):
    with pytest.raises(FileNotFoundError, match=name), folder_to_publish(name):
        pass
