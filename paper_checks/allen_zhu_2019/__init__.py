"""Allen-Zhu, Li, Song: A convergence theory for deep learning via over-parameterization, ICML 2019."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "G",
    "Allen-Zhu, Li, Song",
    "A convergence theory for deep learning via over-parameterization",
    2019,
    "arXiv 1811.03962",
    (
        Claim(
            "norms",
            r"At initialisation $\|h_l\|$ is $1 \pm \varepsilon$ for every sample and layer, with high probability in the width.",
            "recalled",
        ),
        Claim("separation", r"Samples at distance $\delta$ keep the separation $\delta/2$ at every layer.", "recalled"),
        Claim("upper", r"$\|\nabla_{W_l} F\|^2 \le O(F n m / d)$ near initialisation.", "unsure"),
        Claim("lower", r"$\|\nabla F\|^2 \ge \Omega(F \delta m / (d n^2))$ near initialisation.", "unsure"),
        Claim(
            "semismooth",
            r"$F$ is semi-smooth: a remainder of first order with a small factor, and one of second order.",
            "unsure",
        ),
        Claim(
            "rate", "Gradient descent on the hidden weights reaches zero training loss at a linear rate.", "recalled"
        ),
    ),
)
