"""Checkpoints: an optimizer as a dictionary keyed by parameter name, and as a safetensors file."""

from fastopt.checkpoint.file import read as read
