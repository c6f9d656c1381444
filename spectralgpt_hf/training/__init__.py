"""Code that the training and evaluation commands share: options, samples, optimisation, checkpointing, scores.

May import `assets`, `data`, `files`, `inference` and `modeling`.
"""
