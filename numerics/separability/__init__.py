"""How well the classes are told apart layer by layer: the generalised discrimination value."""
