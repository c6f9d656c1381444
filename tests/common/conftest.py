from pathlib import Path

import pytest


# The marks that the common tests carry.
MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' common tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collecting these files fetches an archive, which only the slow suite may do."""
    return True if collection_path.name.startswith("test_") and config.option.markexpr == "not slow" else None
