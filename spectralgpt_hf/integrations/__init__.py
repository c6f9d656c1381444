"""Adapters to other frameworks, one file for each. The package does not import them by itself.

May import `assets`, `modeling`. Each file imports its framework, which an extra of the same name installs.
"""
