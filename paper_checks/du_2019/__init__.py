"""Claims of Du, Lee, Li, Wang and Zhai (arXiv 1811.03804)."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "F",
    "Du, Lee, Li, Wang, Zhai",
    "Gradient descent finds global minima of deep neural networks",
    2019,
    "arXiv 1811.03804",
    (
        Claim(
            "recursion",
            "Wide networks have the Gram matrices $K^{(h)} = c_\\sigma E[\\sigma(u) \\sigma(v)]$, $(u, v)$ with the covariance $K^{(h-1)}$, and the last hidden layer the "
            "tangent kernel $K^{(H)} = c_\\sigma K^{(H-1)} E[\\sigma'(u) \\sigma'(v)]$ (residual networks: with the means $b^{(h)}$ of the features).",
            "recalled",
        ),
        Claim(
            "positive",
            "$\\lambda_{min}(K^{(H)}) > 0$ for inputs no two of which are parallel and an analytic activation that is no polynomial.",
            "recalled",
        ),
        Claim(
            "rate",
            "At sufficient width gradient descent on $\\frac12 \\sum_i (f(x_i) - y_i)^2$ obeys $L(k) \\le (1 - \\eta \\lambda_{min}(K^{(H)})/2)^k L(0)$.",
            "recalled",
        ),
        Claim(
            "depth",
            "The width that suffices grows exponentially with depth for fully connected networks and polynomially for residual ones. Checked is the part of "
            "$\\lambda_{min}(K^{(H)})$ in it.",
            "recalled",
        ),
    ),
)
