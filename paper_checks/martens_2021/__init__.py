"""Martens et al.: deep kernel shaping, 2021."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "J1",
    "Martens, Ballard, Desjardins, Swirszcz, Dalibard, Sohl-Dickstein, Schoenholz",
    "Rapid training of deep neural networks without skip connections or normalization layers using Deep Kernel Shaping",
    2021,
    "arXiv 2110.01765",
    (
        Claim(
            "conditions",
            r"$\hat\phi(x) = \gamma(\phi(\alpha x + \beta) + \delta)$ with $Q(1) = Q'(1) = 1$, $C(0) = 0$, $C'(1) = \zeta^{1/D}$ can be solved",
            "read",
        ),
        Claim("slope", r"$C'(1) = E[\hat\phi'(g)^2]/E[\hat\phi(g)^2]$", "read"),
        Claim(
            "c-map",
            r"the $C$ map of a shaped network of depth $D$ has slope $\zeta$ at 1 whatever $D$; beside it those of plain tanh and of ReLU",
            "read",
        ),
    ),
)
