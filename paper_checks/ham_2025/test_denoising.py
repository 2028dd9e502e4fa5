"""Ham, Fleissner, Ghoshdastidar (arXiv 2505.24668): two-layer linear denoising autoencoders with bottleneck `k`, `Y = X + A`, all `d x n`.

- no-skip: `argmin |X - W2 W1 Y|_F` is `W = [X]_k Y^+` (`[.]_k` best approximation of rank `k`).
- skip: with `Y + W2 W1 Y` instead it is `W = I - [A]_k Y^+`.
- descent: gradient descent on `W1, W2` reaches them.
- risk: against `k`, with and without skip.

The text was not at hand and the formulas are reconstructions (re-derived for this project): nothing here is asserted as the paper's wording, whose
hypotheses may well be those that the derivation asks for. What is true (`theory.denoising`): with `P = Y^+ Y` the minimisers are `[X P]_k Y^+` and `I - [A P]_k Y^+`.
Without `P` both hold where `Y` has full column rank (`n <= d`) or the bottleneck does not bind, and fail in general for `n > d`. In the population
with isotropic noise the first becomes true again, the second never does. Always they lose at most twice the least loss.
"""

import math

import pytest
import sympy
import torch
from matplotlib.figure import Figure
from sympy import Matrix, Rational

from numerics.denoising import best_rank, descend, loss, network, risk
from numerics.device import DTYPE, generator
from numerics.plots import COLOURS, MARKERS, panels
from numerics.search import maximise
from theory.denoising import Population, isotropic_steps, losses, minimiser_steps

WIDE = Matrix([[3, 0, 0, 0], [0, 2, 0, 0]])
OTHER = Matrix([[0, 0, 10, 0], [0, 0, 0, Rational(1, 10)]])
"""Two samples of signal and two of noise, or the reverse: the observation is mostly the other one along the first direction."""
ROUNDING = 1e-9
"""Relative rounding of losses of a few hundred operations whose conditioning (singular values of Y) stays below 1e4."""


def problems(
    count: int, d: int, n: int, seed: int, noise: float = 0.25, decay: float = 0.8
) -> tuple[torch.Tensor, ...]:
    """Signals of standard deviations `2 decay^i` along random directions, isotropic noise: `X`, `A`, and 400 further clean samples."""
    source = generator(seed)
    basis = torch.linalg.qr(torch.randn(count, d, d, dtype=DTYPE, generator=source))[0]
    shaped = basis * (2 * decay ** torch.arange(d, dtype=DTYPE))
    clean, fresh = (shaped @ torch.randn(count, d, m, dtype=DTYPE, generator=source) for m in (n, 400))
    return clean, math.sqrt(noise) * torch.randn(count, d, n, dtype=DTYPE, generator=source), fresh


@pytest.mark.parametrize("skip", [False, True], ids=["no-skip", "skip"])
def test_the_minimisers(evidence, skip: bool) -> None:
    key = "skip" if skip else "no-skip"
    assert all(step.verify() for step in (*minimiser_steps(), *isotropic_steps()))
    target = "A" if skip else "X"
    evidence(key, "derived", "the minimiser of matrices of every size, P = Y^+ Y", f"[{target} P]_k Y^+")
    # n <= d and full column rank: the recorded formula, exactly
    tall = losses(WIDE.T, (WIDE + OTHER).T, 1)
    assert tall.least == tall.unprojected == 4
    evidence(key, "derived", "Y of full column rank: loss of the recorded formula", 4, tall.unprojected, sense="equal")
    # n > d: an exact counterexample
    exact = losses(WIDE, WIDE + OTHER, 1)
    assert exact.unprojected == Rational(1336, 109) > exact.least == Rational(3613, 401)
    evidence(
        key,
        "derived",
        "d = 2, n = 4, k = 1: least loss, and that of the recorded formula (exact: 3613/401 and 1336/109)",
        float(exact.least),
        float(exact.unprojected),
        sense="lower",
        finding="false",
        note=f"for n > d the minimiser is [{target} P]_k Y^+, P = Y^+ Y; [{target}]_k Y^+ is one only if the first k left singular vectors of {target} "
        f"span the leading eigenspace of {target} P {target}^T, as for n <= d",
    )
    for n in (5, 16):
        clean, noise, _ = problems(256, 8, n, 1)
        aim, seen = (noise if skip else clean), clean + noise
        right, recorded = (loss(network(aim, seen, 3, skip=skip, project=p), clean, seen) for p in (True, False))
        gain = (recorded / right - 1).max()
        if n <= 8:
            evidence(
                key, "measured", "n = 5, d = 8: relative difference of the losses", 0.0, float(gain), sense="equal"
            )
        else:
            sentence = "on every sampled problem with n > d the recorded formula is worse"
            assert bool((recorded > right * (1 + 1e-12)).all())
            what = "n = 16, d = 8, k = 3: loss of the recorded formula over the least one, mean of 256 problems"
            mean = float((recorded / right).mean())
            evidence(key, "measured", what, 1.0, mean, sense="lower", finding="false", note=sentence)


@pytest.mark.parametrize("skip", [False, True], ids=["no-skip", "skip"])
def test_no_map_of_rank_k_does_better(evidence, skip: bool) -> None:
    """Ascent over the map, the data and the noise together."""
    key, d, n, k, starts = "skip" if skip else "no-skip", 3, 6, 1, 16

    def least(target: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        inside = target @ torch.linalg.pinv(seen) @ seen
        return target.square().sum((1, 2)) - torch.linalg.eigvalsh(inside @ inside.mT)[:, -k:].sum(1)

    def ratio(outer: torch.Tensor, inner: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        target, seen = (noise if skip else clean), clean + noise
        return (target - outer @ inner @ seen).square().sum((1, 2)) / least(target, seen)

    def shortfall(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        target, seen = (noise if skip else clean), clean + noise
        values = torch.linalg.pinv(seen) @ seen
        return (target - best_rank(target, k) @ values).square().sum((1, 2)) / least(target, seen)

    source = generator(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(starts, *shape, dtype=DTYPE, generator=source)

    start = [0.3 * draw(d, k), 0.3 * draw(k, d), draw(d, n), draw(d, n)]
    found = maximise(ratio, start, None, 400, 0.05, source, lowest=True)
    evidence(key, "searched", "loss over the derived least one, lowest found", 1.0, found.best, sense="lower")
    assert found.best < 1.01  # the least loss is reached
    worst = maximise(shortfall, start[2:], None, 200, 0.05, source)
    note = "there are data on which the recorded formula loses nearly twice the least loss"
    what = "loss of the recorded formula over the least one, worst found (n = 6, d = 3, k = 1)"
    evidence(key, "searched", what, 1.0, worst.best, sense="lower", finding="false", note=note)
    note = (
        "what is always true of the recorded formula: it loses at most twice the least loss, and two cannot be improved"
    )
    evidence(key, "searched", what, 2.0, worst.best, finding="sharpened", note=note)
    assert worst.best > 1.98


def test_what_survives_in_the_population(evidence) -> None:
    signal = tuple(Rational(4) * Rational(16, 25) ** i for i in range(8))
    isotropic = Population(signal, (Rational(1, 4),) * 8)
    for k in range(9):
        assert isotropic.risk(k, False) == isotropic.unprojected_risk(k, False)
    evidence("no-skip", "derived", "isotropic noise, n to infinity: [X]_k Y^+ is a minimiser", "at every k")
    gap = isotropic.unprojected_risk(3, True) / isotropic.risk(3, True)
    evidence(
        "skip",
        "derived",
        "isotropic noise, n to infinity, k = 3 of 8: risk of I - [A]_k Y^+ over the least one",
        1.0,
        float(gap),
        sense="lower",
        finding="false",
        note="with skip the minimiser removes noise along the k directions of LEAST signal; [A]_k takes directions at random, and no sample size repairs it",
    )
    assert gap > 1
    # noise that is not isotropic: without skip the recorded formula fails in the population as well
    skewed = Population((Rational(3), Rational(2)), (Rational(100), Rational(1, 10)))
    assert skewed.unprojected_risk(1, False) > skewed.risk(1, False)
    what = "noise variances 100 and 1/10, signal 3 and 2, k = 1: risk of the limit of [X]_k Y^+, and the least one"
    bound, measured = float(skewed.risk(1, False)), float(skewed.unprojected_risk(1, False))
    note = "without isotropy [X]_k ranks directions by their signal, the minimiser by signal^2 / (signal + noise)"
    evidence("no-skip", "derived", what, bound, measured, sense="lower", finding="false", note=note)
    # measured: the sample's risk approaches the population's, of the minimiser and of the recorded formula alike
    clean, noise, _ = problems(24, 8, 4000, 3)
    for skip in (False, True):
        for project, law in ((True, isotropic.risk(3, skip)), (False, isotropic.unprojected_risk(3, skip))):
            weight = network(noise if skip else clean, clean + noise, 3, skip=skip, project=project)
            basis_free = risk(weight, clean, 0.25)
            error = float(basis_free.std()) / math.sqrt(24)
            name = "minimiser" if project else "recorded formula"
            what = f"n = 4000: risk of the {name}, distance from its limit in standard errors or per cent"
            distance = abs(float(basis_free.mean()) - float(law))
            # 4 standard errors, and a bias of the order d/n = 0.2 per cent of the trained map
            evidence("skip" if skip else "no-skip", "measured", what, 4 * error + 0.01 * float(law), distance)


def test_gradient_descent_reaches_them(evidence) -> None:
    d, k, count, steps = 5, 2, 64, 5000
    Y, W1, W2, E = sympy.symbols("Y W1 W2 E", commutative=False)
    Yt, W2t, R = sympy.symbols("Y' W2' R", commutative=False)
    # the gradient of |T - W2 W1 Y|^2/2 by W1 is -W2'(T - W2 W1 Y) Y'; with R = I - Y Y^+ it vanishes on R as Y' R = 0
    gradient = -W2t * (E - W2 * W1 * Y) * Yt
    assert sympy.expand(gradient * R).subs(Yt * R, 0) == 0
    evidence(
        "descent",
        "derived",
        "W1 (I - Y Y^+) never changes, as every gradient by W1 ends in Y^T",
        "W -> W_* + W2 W1(0) (I - Y Y^+) on full column rank",
        finding="sharpened",
        note="for n < d the loss reaches its least value, but the map is W_* itself only if the rows of W1 start in the column space of Y",
    )
    for n in (3, 12):
        clean, noise, _ = problems(count, d, n, 4)
        seen = clean + noise
        for skip in (False, True):
            target, source = (noise if skip else clean), generator(5)
            outer = 0.3 * torch.randn(count, d, k, dtype=DTYPE, generator=source)
            inner = 0.3 * torch.randn(count, k, d, dtype=DTYPE, generator=source)
            inside = seen @ torch.linalg.pinv(seen)
            if n < d:
                half = count // 2  # half of the starts inside the column space of Y
                inner[:half] = inner[:half] @ inside[:half]
            end = descend(target, seen, outer, inner, steps, 2.0)
            final, name = end.outer @ end.inner, f"{'with' if skip else 'without'} skip, n = {n}"
            best = network(target, seen, k, skip=False)
            excess = (loss(final, target, seen) - loss(best, target, seen)) / target.square().sum((1, 2))
            assert bool((excess > -ROUNDING).all())
            # the slowest of 64 problems has a gap of one per cent between its k-th and next singular value: 1e-3 after 5,000 steps; the middle one is done
            evidence("descent", "measured", f"{name}: largest excess of the loss over |T|^2", 2e-3, float(excess.max()))
            evidence("descent", "measured", f"{name}: median of the excess", ROUNDING, float(excess.median()))
            if n < d:
                moved = ((end.inner - inner) @ (torch.eye(d, dtype=DTYPE) - inside)).abs().amax()
                evidence("descent", "measured", f"{name}: change of W1 (I - Y Y^+)", 1e-10, float(moved))
                offset = (final - best).norm(dim=(1, 2)) / best.norm(dim=(1, 2))
                within, outside = float(offset[:half].median()), float(offset[half:].median())
                evidence("descent", "measured", f"{name}: distance from W_*, started inside", 1e-6, within)
                evidence(
                    "descent", "measured", f"{name}: distance from W_*, started anywhere", 0.05, outside, sense="lower"
                )
    # searched: no bad local minimum holds it (a start at zero is a saddle; from starts of scale 3 to 10 even 20,000 steps of this size leave an excess)
    clean, noise, _ = problems(1, d, 12, 6)
    scales = torch.logspace(-4, 0, count, dtype=DTYPE)[:, None, None]
    source = generator(7)
    outer, inner = (torch.randn(count, *s, dtype=DTYPE, generator=source) * scales for s in ((d, k), (k, d)))
    batch = [t.expand(count, -1, -1) for t in (clean, clean + noise)]
    end = descend(*batch, outer, inner, steps, 2.0)
    excess = loss(end.outer @ end.inner, *batch) / loss(network(*batch, k, skip=False), *batch) - 1
    evidence("descent", "searched", "64 starts of scale 1e-4 to 1: largest relative excess", 1e-6, float(excess.max()))


def test_risk_against_the_bottleneck(evidence) -> None:
    d, variance, count = 8, 0.25, 256
    sizes = (4, 8, 12, 64)
    figure, axes = panels(len(sizes))
    curves: dict[tuple[int, bool], torch.Tensor] = {}
    for axis, n in zip(axes, sizes, strict=True):
        clean, noise, fresh = problems(count, d, n, 8, variance, 0.6)
        for skip in (False, True):
            target = noise if skip else clean
            weights = [network(target, clean + noise, k, skip=skip) for k in range(d + 1)]
            curves[n, skip] = torch.stack([risk(w, fresh, variance) for w in weights])
            middle, low, high = (curves[n, skip].quantile(q, dim=1) for q in ORDER)
            axis.errorbar(
                range(d + 1),
                middle,
                (middle - low, high - middle),
                marker=MARKERS[skip],
                color=COLOURS[skip],
                label="with skip" if skip else "without skip",
            )
        axis.set(title=f"$n = {n}$, $d = {d}$", xlabel="bottleneck $k$", ylabel="risk (median, 95 %)", yscale="log")
    axes[0].legend()
    # the closed form over fresh noise, against noise drawn
    clean, noise, fresh = problems(count, d, 12, 8, variance, 0.6)
    weight = network(clean, clean + noise, 4, skip=False)
    drawn = math.sqrt(variance) * torch.randn(fresh.shape, dtype=DTYPE, generator=generator(9))
    sampled = loss(weight, fresh, fresh + drawn) / 400
    ratio = sampled / risk(weight, fresh, variance)
    error = float(ratio.std()) / math.sqrt(count)
    what = "risk on drawn noise over |(I - W) X|^2/m + s |W|^2: mean less 1, in standard errors"
    evidence("risk", "measured", what, 4.0, abs(float(ratio.mean()) - 1) / error)
    assert all(step.verify() for step in isotropic_steps())
    what = "population: excess over the Wiener filter, without skip over k < i <= d largest signals, with skip over the d - k largest"
    evidence("risk", "derived", what, "lambda^2/(lambda + s) and s^2/(lambda + s) a direction", figure=_titled(figure))
    # double descent in the number of samples: the risk at full bottleneck peaks at n = d
    for skip in (False, True):
        at = {n: _interval(curves[n, skip][d]) for n in sizes}
        assert at[8][0] > max(at[4][1], at[12][1])
        name = "with" if skip else "without"
        peak = (
            f"{name} skip, k = d: 95 % interval of the median risk at n = d starts above that at n = d/2, which ends at"
        )
        evidence("risk", "measured", peak, at[4][1], at[8][0], sense="lower")
        # the bottleneck is a regulariser where n is near d: a paired difference of logarithms
        paired = (curves[8, skip][d] / curves[8, skip][3]).log()
        assert _interval(paired)[0] > 0
        what = f"{name} skip, n = d: median of log risk(k = d) - log risk(k = 3), lower end of its 95 % interval"
        evidence("risk", "measured", what, 0.0, _interval(paired)[0], sense="lower")
    # with many samples: a small bottleneck is better with skip, a larger one without, until they agree at k = d
    advantage = (curves[64, False] / curves[64, True]).log()
    signs = [(low > 0) - (high < 0) for low, high in map(_interval, advantage)]
    crossing = signs.index(-1)
    population = Population(tuple(Rational(4) * Rational(9, 25) ** i for i in range(d)), (Rational(1, 4),) * d)
    predicted = next(k for k in range(d) if population.risk(k, False) < population.risk(k, True))
    what = "n = 64: first k at which no skip is better, and that of the population"
    evidence("risk", "measured", what, predicted, crossing, sense="equal", tolerance=0.0)


ORDER = (0.5, 0.5 - 0.98 / 16, 0.5 + 0.98 / 16)
"""The median of 256 values, and the order statistics that enclose the true one with 95 per cent (normal approximation of the binomial)."""


def _interval(values: torch.Tensor) -> tuple[float, float]:
    return float(values.quantile(ORDER[1])), float(values.quantile(ORDER[2]))


def _titled(figure: Figure) -> Figure:
    figure.suptitle("Denoising: risk on fresh data against the bottleneck")
    return figure
