"""The demo page and the handler for Inference Endpoints.

May import `assets`, `data`, `files`, `inference` and `modeling`.
"""
