"""Claims of papers, each on three legs: derived, measured, searched."""
