"""Margins at input and hidden layers, populations of trained networks, and what predicts their generalisation gap."""
