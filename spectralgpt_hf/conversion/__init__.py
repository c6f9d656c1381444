"""The original's checkpoints: conversion in both directions, verification, and export to ONNX.

May import all but `commands` and `integrations`.
"""

from .convert import convert_checkpoint, restore_checkpoint
from .verification import verify_conversion


__all__ = ["convert_checkpoint", "restore_checkpoint", "verify_conversion"]
