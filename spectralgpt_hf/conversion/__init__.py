"""The original's checkpoints: conversion both ways, verification, ONNX. May import everything but `commands`."""

from .convert import convert_checkpoint, restore_checkpoint
from .verification import verify_conversion


__all__ = ["convert_checkpoint", "restore_checkpoint", "verify_conversion"]
