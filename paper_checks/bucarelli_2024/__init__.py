"""Bucarelli, D'Inverno, Bianchini, Scarselli, Silvestri: A topological description of loss surfaces based on Betti numbers, Neural Networks 2024."""
