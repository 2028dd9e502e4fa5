"""Deep residual networks with random weights, in batches: growth, convergence to the ODE and the SDE, critical scale, training."""
