import subprocess
import sys

import pytest

from spectralgpt_hf.data.readers.common import find_folder, hold_out, read_names


@pytest.mark.slow  # imports everything again
def test_importing_the_package_does_not_import_datasets():
    code = "import sys, spectralgpt_hf, spectralgpt_hf.data.chip_grid; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_nearest_folder_is_found_from_any_ancestor(tmp_path):
    inner = tmp_path / "a" / "b" / "c"
    (inner / "train" / "img").mkdir(parents=True)
    (tmp_path / "a" / "b" / "z" / "y" / "train" / "img").mkdir(parents=True)
    assert all(find_folder(root, "train/img") == inner for root in (tmp_path, tmp_path / "a", inner))
    assert find_folder(tmp_path, "val/img", "tr*/img") == inner


def test_a_folder_of_thousands_of_samples_is_not_searched(tmp_path):
    for number in range(257):
        (tmp_path / "samples" / f"patch_{number}").mkdir(parents=True)
    (tmp_path / "samples" / "patch_0" / "list.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"expected list\.txt, here or in a folder below"):
        find_folder(tmp_path, "list.txt")


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_folder(tmp_path / "nowhere", "x")


def test_held_out_samples_depend_on_seed_and_names_alone():
    names = [f"patch_{number}" for number in range(1000)]
    chosen = hold_out(names, 0.1, seed=0)
    assert len(chosen) == 100
    assert hold_out(names[::-1], 0.1, seed=0) == chosen
    assert hold_out(names, 0.2, seed=0) > chosen
    assert len(hold_out(names, 0.1, seed=1) & chosen) < 30
    # Published scores depend on these: they must not change.
    assert sorted(chosen)[:3] == ["patch_100", "patch_110", "patch_126"]
    with pytest.raises(ValueError, match=r"between 0 and 1, got 10\.0"):
        hold_out(names, 10.0, seed=0)


def test_lists_hold_a_name_a_line_whatever_follows(tmp_path):
    (tmp_path / "list.txt").write_text("tif/River/River_1.tif 8\r\n\nRiver_2.jpg\nS2A_1,S1A_1\n")
    assert read_names(tmp_path / "list.txt") == ["tif/River/River_1.tif", "River_2.jpg", "S2A_1"]
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt: expected names"):
        read_names(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="trian: expected one of train, validation, test, all"):
        read_names("trian")
