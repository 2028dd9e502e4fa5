"""MacDonald, Valmadre, Saratchandran, Lucey: On skip connections and normalisation layers in deep optimisation, NeurIPS 2023."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "A",
    "MacDonald, Valmadre, Saratchandran, Lucey",
    "On skip connections and normalisation layers in deep optimisation",
    2023,
    "NeurIPS 2023, arXiv 2210.05371",
    (
        Claim(
            "global-curvature",
            r"Normalisation makes curvature bounds global: with normalised weights $\sup_\theta \|D^2 F\|$ is finite over all parameters, "
            r"without it is $\infty$. (Abstract; the formula is re-derived.)",
            "read",
        ),
        Claim(
            "global-regularity",
            r"Skip connections make regularity bounds global: $\lambda_{\min}(DF\,DF^\top) \ge \sigma^2 \prod_l (1-\kappa_l)^2 > 0$ with them, while a chain's "
            r"bound is $0$. (Abstract; the formula is re-derived.)",
            "read",
        ),
        Claim(
            "regularity-inequality",
            r"$\lambda_{\min}(DF\,DF^\top) \ge \sum_i \lambda_{\min}(Df_i\,Df_i^\top) \prod_{j>i} \lambda_{\min}(Jf_j\,Jf_j^\top)$. "
            r"(That the paper states exactly this is not certain.)",
            "derived",
        ),
        Claim(
            "critical-points",
            r"All critical points are global minima wherever the tangent kernel $DF\,DF^\top$ is positive definite and the cost convex: "
            r"$|\nabla\ell|^2 \ge \lambda_{\min}(DF\,DF^\top)\,|\nabla c|^2$.",
            "read",
        ),
        Claim(
            "step-lemma",
            r"A step $\eta_t \in (0, 2/\beta_t)$ obeys $\ell_{t+1} - \inf\ell \le (1 - \mu_t\eta_t(2 - \beta_t\eta_t))\,(\ell_t - \inf\ell)$ where "
            r"$|\nabla\ell|^2 \ge 2\mu_t(\ell - \inf\ell)$. (That the paper's theorem is of this kind is recalled, not certain.)",
            "derived",
        ),
        Claim(
            "global-optima",
            r"A class of deep networks is trained by gradient descent to global optima even where these exist only at infinity, as for cross-entropy; here: from every start, "
            r"with a fixed step, $\limsup_t t\,\ell_t \le 2(K-1)N/(\eta\lambda K)$, and this does not depend on the depth at branch scale $c/L$.",
            "read",
        ),
        Claim(
            "linear-rate",
            r"Cross-entropy has $\mu_t$ proportional to the loss itself; so a loss-proportional step $\eta_t = 1/\beta(\ell_t)$ converges linearly to the optimum at infinity, "
            r"each step removing the part $\lambda K/(2(K-1)NC)$ in the end.",
            "derived",
        ),
        Claim(
            "singular-values",
            r"Skip connections lift the singular values of the layers' input Jacobians.",
            "read",
        ),
        Claim(
            "faster-training",
            r"Because of the lifted singular values, networks with skip connections train faster; verified predictively.",
            "read",
        ),
        Claim(
            "changed-shortcut",
            r"Changing the dimension-changing shortcut to $\mathrm{conv}(x) + \mathrm{pad}(s\,\mathrm{AvgPool}_s(x))$, which adds no parameters, lifts the singular values "
            r"further and speeds training up further. (The shortcut: authors' code.)",
            "read",
        ),
    ),
)
