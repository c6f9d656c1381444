"""Adapters to the frameworks of others: one file each, which is imported only when asked for.

May import `modeling`. Each file imports its own framework, which comes with an extra of the same name.
"""
