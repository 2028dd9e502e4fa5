"""Bucarelli, D'Inverno, Bianchini, Scarselli, Silvestri: A topological description of loss surfaces based on Betti numbers, Neural Networks 2024."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "B",
    "Bucarelli, D'Inverno, Bianchini, Scarselli, Silvestri",
    "A topological description of loss surfaces based on Betti numbers",
    2024,
    "Neural Networks 2024, arXiv 2401.03824",
    (
        Claim(
            "format",
            r"The loss of a network with Pfaffian activations is Pfaffian in its parameters. For sigmoidal units, squared error, $m$ samples and $L-1$ hidden layers of width $h$ "
            r"its chain has length $l = m h (L-1)$, and the bound on Betti numbers has the prefactor $2^{l(l-1)/2}$ and the exponent "
            r"$n + l = h^2(L-2) + h(L + n_0 + m(L-1)) + 1$. (Read in notes on the paper.)",
            "recalled",
            {
                "measured": "A format is an identity between polynomials, proven by induction on the depth; no sampled network could tell more.",
                "searched": "The proof by induction covers every width, depth and number of samples.",
            },
        ),
        Claim(
            "betti-bound",
            r"$B(\{\ell \le c\})$ is bounded by a number of the shape $2^{l(l-1)/2}(\dots)^{n+l}$; checked is the constant-free form for Morse losses with compact sublevel "
            r"sets, $B \le \#\{\nabla\ell = 0\} \le 2^{l(l-1)/2}(\alpha+\beta-1)^n (n(\alpha+\beta-2) + \min(n,l)\,\alpha + 1)^l$.",
            "derived",
        ),
        Claim(
            "growth",
            r"For deep networks the bound grows super-exponentially in depth and in width.",
            "read",
            {
                "searched": "The growth is that of a closed form, whose degree and leading coefficient are derived for all sizes."
            },
        ),
        Claim(
            "l2-and-skips",
            r"An $L_2$ regularisation term and skip connections of equal width do not change the bound in specific cases; checked: the format $(\alpha, \beta, l)$ is unchanged.",
            "read",
            {
                "searched": "The formats are equal as closed forms for all sizes, so the bound is one function; a search has nothing to find."
            },
        ),
        Claim(
            "sublevel-sets",
            r"The sublevel sets themselves do change with the strength of the $L_2$ term, while the format does not.",
            "derived",
            {
                "searched": "Two strengths with different certified numbers of critical points show the change; a search has nothing to add."
            },
        ),
    ),
)
