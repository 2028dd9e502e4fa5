"""Second moments of activations and gradients along the depth."""
