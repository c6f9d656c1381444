"""The model, its input and its pipelines: what every published checkpoint carries, file by file, beside its weights.

May import nothing of the package. Transformers loads each of these files as a module of its own, hence four laws:
the folder is flat; files import one another by `from .x import y` only, never by `from . import x`; nobody asks with
`isinstance` (or compares an enumeration by identity) for a class that another file defines, because that class may have
been loaded twice; and a dependency that may be missing is imported at module level inside `try`.
"""
