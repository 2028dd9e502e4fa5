"""Marion, Fermanian, Biau, Vert: Scaling ResNets in the large-depth regime, JMLR 2025."""

from numerics.claims import Claim, Paper

NO_EXTREME = "It is a statement about a limit of means over random weights; there is no extreme to search for."

PAPER = Paper(
    "C",
    "Marion, Fermanian, Biau, Vert",
    "Scaling ResNets in the large-depth regime",
    2025,
    "JMLR 2025, arXiv 2206.06929",
    (
        Claim(
            "iid-regimes",
            r"$h_{k+1} = h_k + L^{-\beta} V \mathrm{ReLU}(W h_k)$ with iid weights: identity for $\beta > 1/2$ ($\|h_L - h_0\|/\|h_0\| \to 0$), non-trivial at $\beta = 1/2$, "
            r"explosion for $\beta < 1/2$.",
            "read",
        ),
        Claim(
            "smooth-regimes",
            r"Weights that are smooth functions of $k/L$: $\beta = 1$ is critical, identity for $\beta > 1$, explosion for $\beta < 1$.",
            "recalled",
            {"derived": "The regimes of smooth weights rest on a limit equation that is measured here, not derived."},
        ),
        Claim(
            "second-moments",
            r"For res-3 with symmetric iid entries of variance $1/d$: $E\|h_L\|^2/\|h_0\|^2 = (1+\alpha^2/2)^L$, the same for gradients.",
            "derived",
        ),
        Claim(
            "probability",
            r"With probability at least $1-\delta$, $\|h_L-h_0\|^2/\|h_0\|^2 \le 2 L \alpha^2/\delta$ when $L\alpha^2 \le 1$.",
            "recalled",
        ),
        Claim(
            "gradients",
            r"$(1+\alpha^2/2)^L - 1 \le E\|p_0-p_L\|^2/\|p_L\|^2 \le (1+\alpha^2)^L - 1$. (The constants are not certain: they are compared, not asserted as the paper's.)",
            "unsure",
        ),
        Claim(
            "log-normal",
            r"At $\beta = 1/2$, $\log(\|h_L\|^2/\|h_0\|^2)$ is about $N(1/2 - 1/d,\, 2/d)$.",
            "derived",
            {"searched": NO_EXTREME},
        ),
        Claim(
            "neural-sde",
            r"At $\beta = 1/2$ with iid weights the limit is a neural SDE, approached with strong order $1/2$.",
            "read",
            {"searched": NO_EXTREME},
        ),
        Claim(
            "neural-ode",
            r"At $\beta = 1$ with smooth weights the limit is a neural ODE, approached with an error $O(1/L)$.",
            "recalled",
            {
                "derived": "That Euler's scheme has order 1 is a classical fact, not derived again here.",
                "searched": NO_EXTREME,
            },
        ),
        Claim(
            "hurst",
            r"Weights that are fractional Gaussian noise of Hurst index $H$ have a critical line between identity and explosion; derived here: $\beta = \max(H, 1/2)$.",
            "read",
        ),
        Claim(
            "worst-case",
            r"The worst case over weights needs a smaller branch than the mean: bounded at scale $c/L$, not at $c/\sqrt{L}$, where the mean growth is $e^{c^2/2}$.",
            "derived",
        ),
        Claim(
            "training",
            r"Residual networks train at the critical scale ($\beta = 1/2$ for iid weights at the start, $\beta = 1$ for smooth ones) and fail in the regime of explosion. "
            r"(Shown in the paper by figures on MNIST and CIFAR10; optimiser and steps are not known here.)",
            "unsure",
            {
                "derived": "What training does to accuracy is measured; no law of it is derived here.",
                "searched": "A comparison of scales over paired networks has no extreme to search for.",
            },
        ),
        Claim(
            "weights-after-training",
            r"Weights keep their regularity along the depth in training: those that start independent stay rough, those that start as smooth functions of $k/L$ stay smooth.",
            "recalled",
            {
                "derived": "How gradient descent changes the regularity of weights in depth is measured; no law of it is derived here.",
            },
        ),
    ),
)
