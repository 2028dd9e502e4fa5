"""Schilling et al.: How deep is deep enough? (arXiv 1811.01753): the generalized discrimination value and what it says of depth."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "H",
    "Schilling et al.",
    "How deep is deep enough?",
    2018,
    "arXiv 1811.01753",
    (
        Claim(
            "invariances",
            r"$\mathrm{GDV} = D^{-1/2} [\frac1K \sum_l d(C_l) - \frac{2}{K(K-1)} \sum_{l<m} d(C_l, C_m)]$ on z-scored and halved features does not change under "
            r"translation, scaling of a dimension, permutation and duplication of dimensions.",
            "read",
        ),
        Claim(
            "range",
            r"For $K$ classes of $n$ samples $-\sqrt{K/(2(K-1))} \le \mathrm{GDV} \le 1/\sqrt{2n(n-1)}$, both ends attained: -1 for two classes alone, and "
            r"overlapping classes can be above 0.",
            "derived",
        ),
        Claim(
            "unbalanced",
            r"Classes of unequal sizes leave the balanced range: two collapsed classes of sizes $N_1, N_2$ reach $-(N_1 + N_2)/(2 \sqrt{N_1 N_2}) < -1$.",
            "derived",
        ),
        Claim(
            "depth",
            r"In trained networks separability improves (the GDV decreases) from layer to layer, up to some layer.",
            "recalled",
            {"derived": "It is an observation on trained networks; nothing is known from which it would follow."},
        ),
        Claim(
            "master curve",
            r"On a given data set the GDV against layer runs through one curve, whatever the number of layers.",
            "unsure",
            {"derived": "It is an observation on trained networks; nothing is known from which it would follow."},
        ),
    ),
)
