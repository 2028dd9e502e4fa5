"""Ham, Fleissner, Ghoshdastidar: linear denoising autoencoders with a bottleneck, with and without skip connection, 2025."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "J2",
    "Ham, Fleissner, Ghoshdastidar",
    "Impact of bottleneck layers and skip connections on the generalization of linear denoising autoencoders",
    2025,
    "arXiv 2505.24668",
    (
        Claim("no-skip", "$W_* = [X]_k Y^+$ minimises $|X - W Y|_F$ over matrices of rank at most $k$", "derived"),
        Claim(
            "skip",
            "$W_* = I - [A]_k Y^+$ minimises $|X - W Y|_F$ over $W = I + W_2 W_1$ with bottleneck $k$",
            "derived",
        ),
        Claim("descent", "gradient descent on both factors reaches the minimisers", "derived"),
        Claim(
            "risk",
            "risk on fresh data against the bottleneck $k$, with and without skip",
            "derived",
            {"searched": "The risk is a quantity that is described, not a bound that a search could break."},
        ),
    ),
)
