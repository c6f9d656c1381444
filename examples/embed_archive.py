"""Embed an archive: thousands of scenes, on one machine or a cluster, with Ray Data.

    python examples/embed_archive.py CHECKPOINT 'archive/*.tif' --output vectors --workers 4
    python examples/embed_archive.py CHECKPOINT scenes.txt --output maps --suffix .tif --gpus 1 --address auto

On a cluster, sources and output must be on storage that all machines share. Repeat the command to resume: what is
finished is skipped, a file is complete or not there, and within a scene finished strips are kept. A worker that dies is
started again with the scene it had. Needs `pip install spectralgpt-hf[ray]`.
"""

from spectralgpt_hf.commands.archive import main


if __name__ == "__main__":
    main()
