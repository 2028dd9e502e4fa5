"""What is certified around the weights of a module: bounds on a ball, and attacks on them."""
