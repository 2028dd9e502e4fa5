"""Soft Dice, affine maps of space, and trilinear sampling."""
