"""Fetch the common tests of the installed transformers from its source archive, once per version.

The wheel has no tests, and the archive's are no package of their own. They are kept in the user's cache folder:

    python -m tests.common.fetch
"""

import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
import transformers
from filelock import FileLock

from tests.common import stubs


PACKAGE = "transformers_common_tests"
FILES = (
    "test_backbone_common.py",
    "test_configuration_common.py",
    "test_image_processing_common.py",
    "test_modeling_common.py",
)


def cache_folder() -> Path:
    """Return the folder that holds the tests of the installed version."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "spectralgpt-hf" / f"transformers-{transformers.__version__}"


def fetch() -> Path:
    """Return the folder to import `PACKAGE` from, downloading the archive if no earlier run did.

    Raises:
        RuntimeError: If the package index cannot be reached or does not have this version, with pip's last line.
    """
    folder = cache_folder()
    package = folder / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if (package / "__init__.py").is_file():
            return folder
        with TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
            command += ["--no-build-isolation", "--dest", scratch, f"transformers=={transformers.__version__}"]
            process = subprocess.run(command, capture_output=True, text=True)
            archives = list(Path(scratch).glob("*.tar.gz"))
            if process.returncode or not archives:
                raise RuntimeError((process.stderr.strip().splitlines() or ["pip downloaded no archive"])[-1])
            package.mkdir(exist_ok=True)
            with tarfile.open(archives[0]) as archive:
                for member in archive:
                    name = member.name.split("/", 1)[-1]
                    if name in [f"tests/{file}" for file in FILES]:
                        (package / Path(name).name).write_bytes(archive.extractfile(member).read())
        (package / "__init__.py").touch()  # last: marks the folder as complete
    return folder


def common_tests(module: str) -> ModuleType:
    """Import a module of the common tests, such as `"test_modeling_common"`, or skip the calling test file."""
    pytest.importorskip("parameterized")
    try:
        folder = str(fetch())
    except RuntimeError as error:
        pytest.skip(f"the common tests of transformers cannot be fetched: {error}", allow_module_level=True)
    if folder not in sys.path:
        sys.path.append(folder)
        sys.modules.update(stubs.modules(PACKAGE))
    return importlib.import_module(f"{PACKAGE}.{module}")


if __name__ == "__main__":
    sys.stdout.write(f"{fetch()}\n")
