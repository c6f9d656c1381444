"""The model, its input and its pipelines: what every published checkpoint carries."""
