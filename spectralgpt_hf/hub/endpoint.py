"""The two files beside the weights that make a checkpoint deployable on Inference Endpoints."""

from pathlib import Path

from ..serving import endpoint_handler


ENDPOINT_FILES: dict[str, bytes] = {
    "handler.py": Path(endpoint_handler.__file__).read_bytes(),
    # Packages that the images of Inference Endpoints lack or hold in versions that are too old.
    "requirements.txt": b"transformers>=5.18,<6\nrasterio>=1.4\npillow>=11.0\n",
}
