"""Embed an archive of thousands of scenes with Ray Data, on one machine or a cluster.

    python examples/embed_archive.py CHECKPOINT archive/ --output vectors --workers 4
    python examples/embed_archive.py CHECKPOINT scenes.txt --output maps --maps --gpus 1 --address auto

The script calls `spectralgpt archive embed`, whose options `--help` lists. On a cluster, the checkpoint, local sources
and the output must be on storage that all machines share. Repeat the command to resume: scenes that are finished with
the same checkpoint and options are skipped. The script needs `pip install spectralgpt-hf[ray]`.
"""

import sys

from spectralgpt_cli import app


if __name__ == "__main__":
    app(["archive", "embed", *sys.argv[1:]])
