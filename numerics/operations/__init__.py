"""The torch operations that can be traced, each as layers; importing the package registers them."""

from numerics.operations import affine, attention, entries, layout, normalisation, sums, windows

__all__ = ["affine", "attention", "entries", "layout", "normalisation", "sums", "windows"]
