"""Readers of the public datasets and of plain folders, one file each. May import `modeling` only."""
