"""Synthetic volumes, the volumetric autoencoder with its spatial transformer, and retrieval by its code."""
