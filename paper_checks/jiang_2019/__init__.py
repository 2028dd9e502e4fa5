"""Jiang, Krishnan, Mobahi, Bengio: Predicting the generalization gap in deep networks with margin distributions, ICLR 2019."""

from numerics.claims import Claim, Paper

EMPIRICAL = "An empirical statement about trained networks: there is nothing to derive."

PAPER = Paper(
    "D",
    "Jiang, Krishnan, Mobahi, Bengio",
    "Predicting the generalization gap in deep networks with margin distributions",
    2019,
    "arXiv 1810.00113",
    (
        Claim(
            "exact",
            "$(f_i - f_j) / \\|\\nabla_x (f_i - f_j)\\|_2$ is the distance of $x$ to the boundary between classes $i$ and $j$ where $f$ is affine",
            "read",
        ),
        Claim(
            "approximation",
            "the same is a first-order approximation of the distance to the decision boundary of a nonlinear network",
            "read",
        ),
        Claim(
            "enclosure",
            "with $m = f_i - f_j$, $g = \\|\\nabla m\\|$, $K$ and $\\beta$ Lipschitz constants of $m$ and of its gradient, the distance is at least $m / K$ and "
            "$2m / (g + \\sqrt{g^2 + 2 \\beta m})$, at most $2m / (g + \\sqrt{g^2 - 2 \\beta m})$",
            "derived",
        ),
        Claim(
            "invariance",
            "rescaling $(W_l, W_{l+1}) \\to (c W_l, W_{l+1} / c)$ of a ReLU network leaves margins normalised by $\\sqrt{tr Cov(x^l)}$ unchanged, not the others",
            "derived",
        ),
        Claim(
            "prediction",
            "the generalization gap is predicted by $a^T \\log(\\text{signature}) + b$, five numbers of the margin distribution at the input and three hidden layers",
            "read",
            {"derived": EMPIRICAL},
        ),
        Claim("normalisation", "normalising the margins improves the prediction", "read"),
        Claim("layers", "margins of several layers predict better than those of one", "read", {"derived": EMPIRICAL}),
        Claim(
            "distribution",
            "the whole distribution predicts better than one number of it",
            "read",
            {"derived": EMPIRICAL},
        ),
        Claim("log", "logarithms of the margins predict better than the margins", "read", {"derived": EMPIRICAL}),
    ),
)
