"""Zhang et al.: set normalisation and clean-path residual connections in permutation equivariant networks, 2022."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "J4",
    "Zhang, Tozzo, Higgins, Ranganath",
    "Set Norm and Equivariant Skip Connections: Putting the Deep in Deep Sets",
    2022,
    "arXiv 2206.11925",
    (
        Claim("equivariant", "set norm (over set and features, affine per feature) is permutation equivariant", "read"),
        Claim("keeps", "set norm keeps what layer norm of each element loses", "read"),
        Claim("clean-path", "a clean-path residual block with a zero branch is the identity, at any depth", "read"),
    ),
)
