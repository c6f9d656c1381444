"""Embed an archive of thousands of scenes with Ray Data, on one machine or a cluster.

    python examples/embed_archive.py CHECKPOINT 'archive/*.tif' --output vectors --workers 4
    python examples/embed_archive.py CHECKPOINT scenes.txt --output maps --suffix .tif --gpus 1 --address auto

On a cluster, sources and output must be on storage that all machines share. Repeat the command to resume: finished
scenes are skipped, and the finished strips of an interrupted scene are kept. Files appear under their names only once
they are complete. If a worker dies, Ray starts another one with the same scene. Needs
`pip install spectralgpt-hf[ray]`.
"""

from spectralgpt_hf.commands.archive import main


if __name__ == "__main__":
    main()
