"""The links of the convergence theorems' proofs, each an identity or a sign that can be checked again, or a named classical fact."""

from __future__ import annotations

from functools import lru_cache

import sympy
from sympy import S, Symbol

from theory.bound import Step, gap


@lru_cache(maxsize=1)
def sublevel_steps() -> tuple[Step, ...]:
    """A step of at most `1 / beta(ell_t)` stays in the sublevel set of its start, so that no growth factor is needed."""
    eta, beta, g = Symbol("eta", positive=True), Symbol("beta", positive=True), Symbol("g", nonnegative=True)
    tau, spare = Symbol("tau", positive=True), Symbol("s", nonnegative=True)
    along = -tau * g**2 + beta * tau**2 * g**2 / 2
    decrease = eta * g**2 - beta * eta**2 * g**2 / 2
    return (
        Step(
            "phi(tau) = ell(theta - tau grad ell) has phi'(0) = -|grad ell|^2, and phi'' <= beta(ell_t) |grad ell|^2 as long as phi <= ell_t "
            "(beta is non-decreasing), so phi(tau) - ell_t <= -tau |g|^2 + beta tau^2 |g|^2 / 2 there",
            (gap(sympy.diff(along, tau).subs(tau, 0), -(g**2)), gap(sympy.Derivative(along, tau, 2), beta * g**2)),
        ),
        Step(
            "that is -(tau/2) (2 - beta tau) |g|^2, negative for 0 < tau < 2 / beta: phi cannot come back to ell_t before, so phi <= ell_t up to there",
            (gap(along, -(tau / 2 * (2 - beta * tau) * g**2)),),
        ),
        Step(
            "at tau = eta with beta eta = 1 - s, s >= 0, the decrease is at least (eta/2) |g|^2",
            (gap(decrease.subs(beta, (1 - spare) / eta) - eta / 2 * g**2, spare * eta * g**2 / 2),),
            (spare * eta * g**2 / 2,),
        ),
    )


@lru_cache(maxsize=1)
def envelope_steps() -> tuple[Step, ...]:
    """Upper bounds of the loss map to upper bounds: `ell <= E` gives `ell_{t+1} <= E - (eta(E)/2) lambda m(E)`."""
    x, gamma, n = Symbol("x", positive=True), Symbol("gamma", positive=True), Symbol("N", positive=True)
    mass = 1 - sympy.exp(-gamma)
    q, y = sympy.symbols("q y", nonnegative=True)
    return (
        Step(
            "m_N' <= N h: equal split has N d/dgamma (1 - e^{-gamma})^2 = 2 N q (1 - q), at most N/2",
            (
                (gap(sympy.Derivative(n * mass**2, gamma), 2 * n * mass * (1 - mass))),
                (gap(n / 2 - 2 * n * x * (1 - x), n / 2 * (1 - 2 * x) ** 2)),
            ),
        ),
        Step(
            "the other candidate has m_N' = N 2 x (1 - x) with x = e^{-a} >= 1/2, a <= gamma, which is N h(a) <= N h(gamma)",
            # Lagrange: all samples share the slope h' = 2 x (1 - x) of (1 - e^{-c})^2, and sum c_i = N gamma
            (gap(sympy.diff((1 - sympy.exp(-gamma)) ** 2, gamma).subs(gamma, -sympy.log(x)), 2 * x * (1 - x)),),
        ),
        Step(
            "beta(E) >= (outer + slope / 2) h(E), as q >= h / 2: up to q = 1/2 that is q - q (1 - q) = q^2, at q = 1/2 + y, where h = 1/2, it is 1/4 + y",
            (gap(q - q * (1 - q), q**2), gap(S.Half + y - S.Half / 2, S.One / 4 + y)),
            (q**2, S.One / 4 + y),
        ),
        Step(
            "so where lambda K / ((K-1) N) <= 2 outer + slope, ell - (lambda m(ell)) / (2 beta(E)) is non-decreasing in ell <= E, and largest at E; "
            "beta(ell) <= beta(E) only lowers it"
        ),
    )


@lru_cache(maxsize=1)
def descent_steps() -> tuple[Step, ...]:
    """Theorem 1's links: the descent inequality at `eta <= 1/beta`, and the asymptotic rate from `m_N ~ N gamma^2`."""
    n, value = Symbol("N", positive=True), Symbol("gamma", positive=True)
    series = sympy.Limit(n * (1 - sympy.exp(-value)) ** 2 / value**2, value, 0)
    t, slope, start = sympy.symbols("t a ell_0", positive=True)
    return (
        *sublevel_steps(),
        *envelope_steps(),
        Step(
            "m_N(gamma) / gamma^2 -> N as gamma -> 0 (equal split is the least there)",
            (gap(series, n),),
        ),
        Step(
            "ell_{t+1} <= ell_t - a ell_t^2 gives 1/ell_{t+1} >= 1/ell_t + a, hence limsup t ell_t <= 1 / a with a = (eta/2) lambda K / ((K-1) N)",
            (
                (gap(1 / (start - slope * start**2) - 1 / start, slope / (1 - slope * start))),
                gap(sympy.Limit(t / (1 / start + slope * t), t, sympy.oo), 1 / slope),
            ),
        ),
    )


@lru_cache(maxsize=1)
def proportional_steps() -> tuple[Step, ...]:
    """Theorem 2's links: `beta(ell) / ell -> C = 2 outer + slope`, so that one step removes a fixed part of the loss."""
    value, outer, slope, n = sympy.symbols("gamma outer slope N", positive=True)
    q = 1 - sympy.exp(-value)
    weight = outer * 2 * q * (1 - q) + slope * q
    lam, k = Symbol("lambda", positive=True), Symbol("K", positive=True)
    removed = lam * k / ((k - 1) * n**2) * n * q**2 / (2 * weight) / value
    return (
        *sublevel_steps(),
        *envelope_steps(),
        Step(
            "(outer h + slope q) / ell -> 2 outer + slope = C as ell -> 0",
            (gap(sympy.Limit(weight / value, value, 0), (2 * outer + slope)),),
        ),
        Step(
            "(eta/2) lambda m(ell) / ell with eta = 1 / beta(ell) tends to lambda K / (2 (K-1) N C)",
            (gap(sympy.Limit(removed, value, 0), lam * k / (2 * (k - 1) * n * (2 * outer + slope))),),
        ),
    )


@lru_cache(maxsize=1)
def residual_steps() -> tuple[Step, ...]:
    """Theorem 2 with the samples' measured residuals: a step may also be `min(k / (sqrt2 |DF_i| |g|), 1 / beta)` with `beta` by the largest `q_i e^k`."""
    c, rate, tau = sympy.symbols("c v tau", positive=True)
    odds = sympy.exp(c) - 1
    lam, n, x, q, curvature, growth = sympy.symbols("D N x q C e_k", positive=True)
    others = (n - x) / (n - 1)
    y = Symbol("y", nonnegative=True)
    spread = (x**2 + (n - 1) * others**2) / n
    return (
        Step(
            "along a step |dc_i| <= sqrt2 q_i |DF_i| |g| dtau = v q_i dtau, and the odds e^c - 1 = q e^c then grow at most at the rate v: by e^k while tau <= k / v",
            (
                (gap(sympy.Derivative(odds, c) * rate * (1 - sympy.exp(-c)), rate * odds)),
                gap(sympy.Derivative(sympy.exp(rate * tau), tau), rate * sympy.exp(rate * tau)),
            ),
        ),
        Step(
            "odds grown by e^k give q' = e^k q / (1 + (e^k - 1) q) <= e^k q",
            (
                (
                    gap(
                        growth * q - growth * q / (1 + (growth - 1) * q),
                        growth * q**2 * (growth - 1) / (1 + (growth - 1) * q),
                    )
                ),
            ),
        ),
        Step(
            "of all q_i with mean Q and largest x Q, equal others have the least sum of squares, N Q^2 S with S = (x^2 + (N-x)^2/(N-1))/N = 1 + (x-1)^2/(N-1)",
            (gap(spread - 1, (x - 1) ** 2 / (n - 1)),),
        ),
        Step(
            "removed part at eta = 1/beta, beta = C e^k x Q: (eta/2) D N Q^2 S / Q = D N S / (2 C e^k x); at eta = k / (sqrt2 |DF_i| |g|) and |g| >= Q sqrt(D N S): "
            "(eta/2) |g|^2 / Q >= k sqrt(D N S) / (2 sqrt2 |DF_i|)",
            (
                (
                    gap(
                        lam * n * q**2 * y / (2 * curvature * growth * x * q) / q,
                        lam * n * y / (2 * curvature * growth * x),
                    )
                ),
            ),
        ),
        Step(
            "S increases with x and 1/x decreases: on [x_j, x_{j+1}] the part is at least that with S(x_j) and x_{j+1}; the least over x in [1, N] is the rate"
        ),
    )
