"""The tests that transformers runs on every model, on ours. They come from its source archive: see `fetch.py`."""
