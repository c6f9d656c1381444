"""The page in a process of its own, as `spectralgpt demo` serves it: prints its URL, and ends with its input.

python page_server.py CHECKPOINTS ALLOWANCE: CHECKPOINTS holds a folder for each task; ALLOWANCE is the number of bytes
that one address may upload.
"""

import sys
from pathlib import Path

from spectralgpt_hf.modeling.untrusted import restrict_gdal


def main(folder: Path, allowance: int) -> None:
    restrict_gdal()
    from spectralgpt_hf.serving import app, gate
    from spectralgpt_hf.serving.tasks import Models

    gate.ALLOWANCE = allowance
    models = Models(*[folder / task for task in ("features", "classification", "segmentation", "change")])
    with app.serve(models) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
