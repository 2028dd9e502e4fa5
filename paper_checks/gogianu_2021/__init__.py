"""Gogianu et al.: spectral normalisation for deep reinforcement learning, an optimisation perspective, 2021."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "J3",
    "Gogianu, Berariu, Rosca, Clopath, Busoniu, Pascanu",
    "Spectral normalisation for deep reinforcement learning: an optimisation perspective",
    2021,
    "arXiv 2105.05246",
    (
        Claim(
            "gradient", r"$dL/dW = (G - \langle G, \bar W\rangle u v^T)/\sigma$ through $\bar W = W/\sigma$", "derived"
        ),
        Claim("orthogonal", r"$\langle dL/dW, W\rangle = 0$", "derived"),
        Claim("adam", r"Adam on $g/\rho$ with $\epsilon$ equals Adam on $g$ with $\rho\epsilon$", "derived"),
    ),
)
