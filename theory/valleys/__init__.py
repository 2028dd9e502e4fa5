"""Networks without bad local valleys: conditions, and the path to zero loss."""
