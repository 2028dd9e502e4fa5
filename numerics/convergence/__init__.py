"""Gradient descent from many starts under its certified envelope, and exhibits of what fails."""
