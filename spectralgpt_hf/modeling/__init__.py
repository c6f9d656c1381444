"""The model, its input and its pipelines: the files that every published checkpoint carries.

May import torch, transformers, NumPy and, where it is installed, rasterio: nothing of the rest of the package.

Remote code loads each of these files as a module of its own, from a folder beside the weights. Hence the rules:

- The folder is flat, and a file imports its neighbours by `from .x import y` only, never by `from . import x`.
- No file imports the rest of the package; torch, transformers and NumPy are required.
- An optional dependency is imported at module level inside `try`.
- No `isinstance` of a class, and no identity of an enum member, of another file: two copies of a file may be loaded.
- Sums over tokens, pixels and losses accumulate in float32, and nothing is cast to the dtype of a weight that may be
  quantised.

Two comments serve transformers' linter (`mlinter`): `# CODEPATH:` says which checkpoints take either side of a branch
on the configuration, and `# trf-ignore: RULE (reason)` exempts a line from a rule.
"""
