"""Across papers: the same skip read five ways."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "K",
    "This project",
    "One skip, read five ways",
    2026,
    "papers A (2210.05371), B (2401.03824), C (2206.06929), F (1811.03804) and J (2206.11925)",
    (
        Claim(
            "regularity",
            r"A: $\sigma_{\min}(I + J) \ge 1 - \|J\|$, so over $L$ blocks at branch scale $c/L$ the input Jacobian keeps a positive lower bound at every depth; a chain's is 0.",
            "derived",
        ),
        Claim(
            "format",
            r"B: the skip leaves the Pfaffian format $(\alpha, \beta, \ell)$ of the loss, hence its bound, as it is at every depth.",
            "derived",
            {
                "measured": "A format is a property of the formula; what small losses show under it stands in the check of paper B.",
                "searched": "Both formats are exact results of one calculus, and there is nothing to search over.",
            },
        ),
        Claim(
            "depth scaling",
            r"C: at $L^{-1/2}$ the second moment tends to a limit other than 1, at $L^{-1}$ to 1; a chain's falls by up to a half in every block.",
            "derived",
        ),
        Claim(
            "kernels",
            r"F: $\lambda_{\min}$ of the tangent kernel decays polynomially in the depth with skips, exponentially without.",
            "recalled",
        ),
        Claim(
            "clean path",
            r"J: with weights 0 the residual network is the identity at any depth, the chain is constant.",
            "read",
            {
                "searched": "At weights 0 nothing is left to search over: the network does not depend on the input's value."
            },
        ),
    ),
)
