"""Nguyen, Mukkamala, Hein: On the loss landscape of a class of deep neural networks with no bad local valleys, ICLR 2019."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "E",
    "Nguyen, Mukkamala, Hein",
    "On the loss landscape of a class of deep neural networks with no bad local valleys",
    2019,
    "arXiv 1809.10749",
    (
        Claim(
            "class",
            "Units read any subset of earlier ones, may share weights with equal fan-in, N of them reach the outputs with independent weights; "
            "activations increase strictly and are real-analytic.",
            "read",
            absent={
                "searched": "A definition has no counterexample; whether its conditions are needed is searched under the other claims."
            },
        ),
        Claim(
            "path",
            r"Where $\Psi$ is nonsingular, $V(t) = V + t \Psi^{-1} E$ has the loss $\frac1N \sum_i \log(1 + e^{-t} S_i)$, strictly decreasing to 0.",
            "derived",
        ),
        Claim(
            "rank",
            r"For distinct samples $\Psi$ has rank $N$ off a null set of hidden weights.",
            "recalled",
        ),
        Claim(
            "valleys",
            "There is no bad local valley: from every point a continuous path leads to any loss above 0 without a barrier.",
            "recalled",
        ),
        Claim(
            "minima",
            "There is no suboptimal strict local minimum, and there are uncountably many weights without training error.",
            "recalled",
        ),
        Claim("maxima", "There is no local maximum.", "recalled"),
        Claim(
            "needed", "The conditions matter: linear activations, ReLU, equal samples, units without biases.", "derived"
        ),
    ),
)
