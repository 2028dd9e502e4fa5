"""One pair of descriptions in all readings, side by side."""
