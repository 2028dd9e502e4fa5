"""Wide random networks: Gaussian expectations, kernel recursions, what depth does to them."""
