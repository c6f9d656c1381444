"""The demo page and the handler for Inference Endpoints."""
