import re
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat


@pytest.mark.slow
def test_the_demo_prints_its_scores_and_draws_its_picture(tmp_path):
    picture = tmp_path / "demo.png"
    command = [sys.executable, "examples/demo.py", "--output", str(picture)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    scores = re.findall(r"^(\S.*?) +(-?\d+\.\d+) +\d+\.\d+°$", output, re.MULTILINE)
    psnr = {name: float(value) for name, value in scores}
    assert len(psnr) == 4
    assert psnr["SpectralGPT"] > psnr["band's mean"]
    similarity = dict(re.findall(r"^(alike|unlike).* (-?\d\.\d{3})$", output, re.MULTILINE))
    assert float(similarity["alike"]) > float(similarity["unlike"])

    # The README shows the picture that the demo draws today, in 256 colours. Fonts differ by machine.
    drawn, shown = (Image.open(path).convert("RGB") for path in (picture, "docs/demo.png"))
    assert drawn.size == shown.size == (1500, 1420)
    assert max(ImageStat.Stat(ImageChops.difference(drawn, shown)).mean) < 4
