import spectralgpt_hf.data
from spectralgpt_hf.data.readers.registry import READERS
from spectralgpt_hf.data.shards.prepare import KINDS


def test_every_public_reader_has_one_name_and_prepare_uses_it():
    public = {name for name in spectralgpt_hf.data.__all__ if name.startswith("load_")}
    own = {"load_image_folder", "load_image_masks", "load_change_pairs", "load_shards"}
    assert {reader.__name__ for reader in READERS.values()} == public - own
    assert set(KINDS) - {"folder", "scenes"} <= set(READERS)
