"""Readers of public datasets and of plain folders, one file each.

May import `assets`, `files`, `modeling` and the rest of `data`.
"""
