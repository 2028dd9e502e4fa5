"""The loss as a Pfaffian function of the parameters, and what that says of its sublevel sets."""
