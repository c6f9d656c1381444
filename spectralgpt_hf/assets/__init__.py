"""A small checkpoint and a real Sentinel-2 image, to try everything without a download; README.md has their sources.

May import nothing of the package.
"""

from pathlib import Path


CHECKPOINT = Path(__file__).parent / "spectralgpt-tiny"
SAMPLE = Path(__file__).parent / "sample.tif"
