r"""Yu and Sabuncu (arXiv 1810.07746): grids, layers, soft Dice, affine parameters and the sampler of the volumetric autoencoder.

1. Grids (read): input 80^3; encoder conv, [residual block, conv k3 s2 p1] x 4, residual block, conv k3 s4: 80, 40, 20, 10, 5, 1; decoder transposed conv k4 s4
   output padding 1, 4 x transposed conv k2 s2, conv, sigmoid. Transformer 5 x [conv k3 p1, batch norm, ReLU, max pool 2] -> 256 -> 9.
2. Layers (derived for this project): norms of every layer by its input, and which second derivatives are unbounded.
3. Dice in [0, 1) (unsure: neither the powers in the denominator nor the place of the smoothing constant are known). All four conventions are decided: the
   coefficient lies in [0, 1) exactly where the smoothing stands in the denominator alone; the loss 1 - D does exactly where it stands in both.
4. Affine parameters (the factorisation is reconstructed: the source says nine; here three rotations, scales, translations): identities, inverse, recovery, gimbal.
5. Sampler (derived for this project): Schur's test for the image, the chain rule for the map; the derivative by the map jumps, so its second order is unbounded.

The text was not at hand; widths, activations of the decoder and the form of the losses are reconstructions (`numerics.volumetric.autoencoder`).
"""

import math

import pytest
import sympy
import torch
from sympy import Integer
from torch import nn

from numerics.certification.gains import gains, measured_total, total
from numerics.certify import certify
from numerics.convolution import convolution_norm
from numerics.device import DTYPE, generator
from numerics.measure import operator_norm
from numerics.realise import realise
from numerics.search import maximise, search_layer
from numerics.trace import trace
from numerics.volumetric.autoencoder import PUBLISHED, Architecture, SpatialTransformer, decoder, encoder, grids
from numerics.volumetric.volumes import (
    FORMS,
    Poses,
    affine_matrices,
    resample,
    sampler_norm_bound,
    soft_dice,
    superquadrics,
    theory_parameters,
)
from theory.atoms.entrywise import activation_facts
from theory.atoms.windows import Windows
from theory.layers.normalisation import InstanceNorm
from theory.layers.spatial import Convolution, MaxPool, TransposedConvolution
from theory.records import Shape
from theory.volumetric import affine_maps, trilinear
from theory.volumetric.dice import SoftDice

TINY = Architecture(size=12, levels=2, width=2, code=4, transformer_width=4)
"""The published blocks at 12^3: small enough for every Jacobian of the default run."""


def cube(side: int) -> tuple[Integer, ...]:
    return (Integer(side),) * 3


def test_the_grids_follow_from_the_layers(evidence) -> None:
    three, half = Windows.of((3,) * 3, None, (1,) * 3), Windows.of((3,) * 3, (2,) * 3, (1,) * 3)
    shape = Shape(Integer(1), Integer(1), cube(80))
    down, up = [80], []
    shape = Convolution(4, three).output_shape(shape)
    for layer in (*(Convolution(4, half) for _ in range(4)), Convolution(8, Windows.of((3,) * 3, (4,) * 3))):
        shape = layer.output_shape(shape)
        assert len(set(shape.grid)) == 1
        down.append(int(shape.grid[0]))
    # output padding 1: the transposed convolution states the grid of its output, and its windows must map that back
    for kernel, side in ((4, 5), (2, 10), (2, 20), (2, 40), (2, 80)):
        shape = TransposedConvolution(4, Windows.of((kernel,) * 3, (kernel,) * 3), cube(side)).output_shape(shape)
        up.append(int(shape.grid[0]))
    assert down == [80, 40, 20, 10, 5, 1]
    evidence(
        "grids", "derived", "encoder's last grid, from 80 by five strided convolutions", 1, down[-1], sense="equal"
    )
    evidence("grids", "derived", "decoder's last grid, from 1", 80, up[-1], sense="equal")
    shape = Shape(Integer(1), Integer(1), cube(80))
    for _ in range(5):
        shape = MaxPool(Windows.of((2,) * 3, (2,) * 3)).output_shape(Convolution(32, three).output_shape(shape))
    evidence(
        "grids",
        "derived",
        "transformer's features, 32 x 2^3",
        256,
        float(shape.features * shape.positions),
        sense="equal",
    )
    with torch.device("meta"):
        volume, code = torch.empty(1, 1, 80, 80, 80), torch.empty(1, PUBLISHED.code, 1, 1, 1)
        sides = [
            tuple(dict.fromkeys(grids(part(PUBLISHED), given))) for part, given in ((encoder, volume), (decoder, code))
        ]
        flat = SpatialTransformer(PUBLISHED)(torch.empty(1, 1, 80, 80, 80))[1].shape[1]
    assert [side[0] for side in sides[0]] == down
    assert [side[0] for side in sides[1]] == up
    evidence(
        "grids",
        "measured",
        "grids that torch computes, agreeing",
        len(down) + len(up),
        len(sides[0]) + len(sides[1]),
        sense="equal",
    )
    evidence("grids", "measured", "affine parameters", 9, flat, sense="equal")


def examples() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SpatialTransformer(TINY)
        parts = {
            "encoder": encoder(TINY),
            "decoder": decoder(TINY),
            "transformer": nn.Sequential(transformer.features, transformer.head),
        }
        nn.init.normal_(transformer.head.weight, std=0.1)
    volume = superquadrics(FORMS[:2], affine_matrices(Poses().draw(2, generator(0))), TINY.size)
    code = torch.randn(2, TINY.code, 1, 1, 1, dtype=DTYPE, generator=generator(1))
    return {name: (part.double(), code if name == "decoder" else volume) for name, part in parts.items()}


def test_every_layer_is_bounded_and_measured_below(evidence) -> None:
    rough: dict[str, int] = {}
    for name, (module, example) in examples().items():
        traced = trace(module, example)
        found = gains(traced, example)
        worst = max(found, key=lambda gain: gain.measured / gain.bound)
        evidence(
            "layers",
            "measured",
            f"{name}: tightest of {len(found)} layers and blocks ({worst.member[:40]})",
            worst.bound,
            worst.measured,
        )
        for gain in found:
            assert gain.measured <= gain.bound, gain
            for label in gain.rough:
                rough[label] = rough.get(label, 0) + 1
        whole = measured_total(traced, example)
        decades = math.log10(total(found) / whole)
        evidence(
            "layers", "measured", f"{name}: input Jacobian of the whole, product of the layers' bounds", total(found), whole,
            note=f"the product is {decades:.1f} decades above",
        )  # fmt: skip
    assert len(rough) == 3  # leaky ReLU, ReLU, maximum
    for activation in ("leaky_relu", "relu"):
        assert activation_facts(activation).curvature.value is sympy.oo
        evidence(
            "layers",
            "derived",
            f"{activation}: second derivative",
            "oo",
            note=activation_facts(activation).curvature.method,
        )
    evidence(
        "layers", "derived", "max pool: second derivative", "oo", note="the derivative jumps where two taps are equal"
    )
    facts = activation_facts("sigmoid")
    evidence(
        "layers", "derived", "sigmoid output: sup |phi'|, sup |phi''|", f"{facts.slope.value}, {facts.curvature.value}"
    )


def test_the_norms_of_layers_are_attained_and_never_exceeded_around_the_weights(evidence) -> None:
    # instance norm: 1/sqrt(eps) everywhere, found on a grid of 3^3 at eps = 1/100
    norm, shape = InstanceNorm(eps=sympy.Rational(1, 100)), Shape(Integer(1), Integer(1), cube(3))
    found = search_layer(realise(norm, shape), "input_jacobian_norm", restarts=8, steps=150).best
    evidence(
        "layers",
        "searched",
        "instance norm: |J| = 1/sqrt(eps) at eps = 1/100",
        10.0,
        found,
        note="attained where a feature is constant",
    )
    assert found > 0.999 * 10
    evidence(
        "layers",
        "derived",
        "instance norm: |J|, any input",
        "1/sqrt(eps)",
        note="316 at torch's eps: why products over blocks are vacuous",
    )
    # 3-D convolution and transposed convolution (k4 s4 with output padding 1) with weights in a ball: largest gain by ascent on weights and input at once
    radius, source = 0.2, generator(2)
    strided = Convolution(2, Windows.of((3,) * 3, (2,) * 3, (1,) * 3)), Shape(Integer(2), Integer(1), cube(6))
    transposed = (
        TransposedConvolution(2, Windows.of((4,) * 3, (4,) * 3), cube(5)),
        Shape(Integer(3), Integer(1), cube(1)),
    )
    for name, (layer, given) in {
        "convolution k3 s2": strided,
        "transposed convolution k4 s4, output padding 1": transposed,
    }.items():
        (atom,) = layer.atoms(given)
        apply = realise(layer, given)
        centre = 0.1 * torch.randn(1, apply.size, dtype=DTYPE, generator=source)
        (weights,) = apply.split(centre[0])
        covered = layer.output_shape(given).grid if layer is transposed[0] else given.grid
        most = math.prod(int(layer.windows.coverage(axis, length)[0]) for axis, length in enumerate(covered))
        bound = float(convolution_norm(weights, atom, given)) + radius * math.sqrt(most)

        def gain(move: torch.Tensor, x: torch.Tensor, apply=apply, centre=centre) -> torch.Tensor:
            inside = move * (radius / move.norm(dim=1, keepdim=True))
            return apply(centre + inside, x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)

        start = [
            torch.randn(4, apply.size, dtype=DTYPE, generator=source),
            torch.randn(4, *apply.input_shape, dtype=DTYPE, generator=source),
        ]
        best = maximise(gain, start, None, 200, 0.05, source).best
        evidence("layers", "searched", f"{name}: gain with weights within {radius} of the given ones", bound, best)


def test_soft_dice_by_convention(evidence) -> None:
    size, smoothing = 6, sympy.Rational(1)
    values = {sympy.Symbol("n", positive=True): size**3, sympy.Symbol("s", positive=True): smoothing}
    source = generator(5)
    p = torch.rand(400, 1, size, size, size, dtype=DTYPE, generator=source)
    g = (torch.rand(400, 1, size, size, size, dtype=DTYPE, generator=source) < 0.3).to(DTYPE)
    for power in (1, 2):
        for smoothed in (False, True):
            dice = SoftDice(power, smoothed)
            name = f"power {power}, smoothing in {'both places' if smoothed else 'the denominator alone'}"
            for bound in (dice.supremum, dice.infimum):
                bound.verify()
            high, low = (float(bound.expression.subs(values)) for bound in (dice.supremum, dice.infimum))
            found = soft_dice(p, g, dice)
            perfect = float(soft_dice(torch.ones_like(p[:1]), torch.ones_like(p[:1]), dice))
            evidence(
                "dice", "derived", f"{name}: sup D", f"{dice.supremum.expression}",
                finding="false" if smoothed else "", note=f"attained at {dice.supremum.attained}" + (", so [0, 1) is false: (0, 1]" if smoothed else ""),
            )  # fmt: skip
            evidence(
                "dice",
                "measured",
                f"{name}: largest D of 400 pairs and of the full volume with itself",
                high,
                max(perfect, float(found.max())),
            )
            evidence("dice", "measured", f"{name}: least D of 400 pairs", low, float(found.min()), sense="lower")
            assert (perfect < 1) is (not smoothed)
            target = g[:1]
            ones = int(target.sum())
            lipschitz = dice.lipschitz(ones, size**3, smoothing)
            lipschitz.verify()
            bound = float(lipschitz.expression)

            def slope(raw: torch.Tensor, dice=dice, target=target) -> torch.Tensor:
                x = raw.sigmoid().reshape(-1, 1, size, size, size)
                (gradient,) = torch.autograd.grad(soft_dice(x, target, dice).sum(), x, create_graph=True)
                return gradient.flatten(1).norm(dim=1)

            start = torch.randn(6, size**3, dtype=DTYPE, generator=source) - 2
            best = maximise(slope, [start], None, 200, 0.3, source).best
            evidence("dice", "searched", f"{name}: |grad D|, {ones} of {size**3} voxels", bound, best)
            if lipschitz.sharp:
                assert best > 0.98 * bound  # a sigmoid reaches 0 and 1 in the limit only


def test_the_nine_affine_parameters(evidence) -> None:
    for step in affine_maps.identities():
        assert step.verify(), step.claim
    evidence("affine", "derived", "det M", "s1*s2*s3")
    evidence(
        "affine",
        "derived",
        "inverse",
        "S^-1 R^T (x - t)",
        note="scales after the rotation: no member of the family unless they are equal",
    )
    evidence(
        "affine",
        "derived",
        "det G^T G of the parameters",
        affine_maps.volume_factor(),
        note="zero exactly at the gimbal cos(beta) = 0",
    )
    parameters = Poses(angle=1.5).draw(5, generator(7))
    matrices = affine_matrices(parameters)
    error = 0.0
    for row, matrix in zip(parameters.tolist(), matrices, strict=True):
        exact = affine_maps.factors(theory_parameters(row)).matrix
        back = affine_maps.recover(exact)
        error = max(error, *(abs(float(sympy.N(x)) - y) for x, y in zip(back, row, strict=True)))
        error = max(error, float((torch.tensor(exact.evalf().tolist(), dtype=DTYPE) - matrix).abs().max()))
    # rounding of doubles through arc tangents, angles at most 1.5 so that cos(beta) > 0.07
    evidence("affine", "measured", "torch against SymPy, and parameters recovered: largest error", 1e-12, error)
    # counterexample: the product of two members with unequal scales has shear
    pose = affine_maps.factors(theory_parameters(parameters[0].tolist()))
    twice = affine_maps.compose(pose.matrix, pose.matrix)
    shear = max(abs(float(sympy.N(value))) for value in affine_maps.in_family(twice[:, :3]))
    evidence(
        "affine", "derived", "scalar products of columns of a product of two members", 0.01, shear, sense="lower",
        finding="sharpened", note="nine parameters are not closed under products: a pose can be undone by the sampler at M itself, not by resampling at M^-1",
    )  # fmt: skip

    def conditioned(angles: torch.Tensor) -> torch.Tensor:
        fixed = torch.tensor([0.8, 1.0, 1.2, 0.0, 0.0, 0.0], dtype=DTYPE).expand(len(angles), 6)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda t: affine_matrices(t).flatten()))(
            torch.cat([angles, fixed], 1)
        )
        return torch.linalg.det(jacobian.mT @ jacobian)

    found = maximise(
        conditioned, [torch.rand(8, 3, dtype=DTYPE, generator=generator(8))], None, 150, 0.05, generator(9), lowest=True
    )
    evidence("affine", "searched", "least det G^T G found over the angles", 1e-6, found.best, note="at |sin(beta)| = 1")
    assert abs(math.sin(float(found.witness[0][1]))) > 0.999


def test_the_sampler_is_bounded_by_image_and_by_map(evidence) -> None:
    size, source = 12, generator(11)
    matrices = affine_matrices(Poses(low=0.5, high=1.5, angle=1.0).draw(6, source))
    bound = sampler_norm_bound(matrices, size)

    def push(v: torch.Tensor) -> torch.Tensor:
        return resample(v.reshape(-1, 1, size, size, size), matrices.repeat(len(v) // len(matrices), 1, 1)).flatten(1)

    def pull(u: torch.Tensor) -> torch.Tensor:
        image = torch.zeros(len(u), size**3, dtype=DTYPE, requires_grad=True)
        with torch.enable_grad():
            return torch.autograd.grad(push(image), image, u)[0]

    start = torch.rand(6, size**3, dtype=DTYPE, generator=source)
    norm = operator_norm(push, pull, start, generator=generator(12), max_iterations=200)
    for row in range(6):
        evidence(
            "sampler", "measured", f"operator norm by the image, map {row}", float(bound[row]), float(norm.value[row])
        )
    closed = trilinear.image_norm((sympy.Rational(1, 2),) * 3)
    evidence(
        "sampler",
        "derived",
        "by the image at scales 1/2: sqrt of the product of column sums",
        float(closed.expression),
        math.sqrt(8),
        sense="equal",
    )
    by_map = trilinear.map_norm(Integer(size))
    for parent in (trilinear.rows(), trilinear.gradient_norm(), by_map, closed):
        parent.verify()
    evidence("sampler", "derived", "by the affine map, values in [0, 1]", trilinear.map_norm().expression)
    evidence(
        "sampler",
        "derived",
        "second derivative by the affine map",
        "oo",
        note="the derivative jumps where a sample crosses a plane of voxel centres",
    )

    def speed(raw: torch.Tensor, entries: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        volume = raw.sigmoid().reshape(-1, 1, size, size, size)
        t = torch.zeros(len(raw), 1, 1, dtype=DTYPE, requires_grad=True)
        moved = entries.reshape(-1, 3, 4) + t * (direction / direction.norm(dim=1, keepdim=True)).reshape(-1, 3, 4)
        cotangent = torch.zeros(len(raw), size**3, dtype=DTYPE, requires_grad=True)
        (pulled,) = torch.autograd.grad(
            (resample(volume, moved).flatten(1) * cotangent).sum(1).sum(), moved, create_graph=True
        )
        along = (pulled * (direction / direction.norm(dim=1, keepdim=True)).reshape(-1, 3, 4)).sum((1, 2))
        (pushed,) = torch.autograd.grad(along.sum(), cotangent, create_graph=True)
        return pushed.norm(dim=1)

    raw = 4 * torch.randn(4, size**3, dtype=DTYPE, generator=source)
    start = [raw, matrices[:4].flatten(1), torch.randn(4, 12, dtype=DTYPE, generator=source)]
    found = maximise(speed, start, None, 60, 0.1, generator(13)).best
    evidence(
        "sampler", "searched", f"by the affine map at {size}^3: ascent on volume, map and direction", float(by_map.expression), found,
        note="not sharp: no volume has the steepest corner at every voxel",
    )  # fmt: skip
    assert found > 0.05 * float(by_map.expression)


def test_the_published_size_traces_to_the_same_grids(evidence) -> None:
    of = Architecture(width=2, code=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = encoder(of).double()
    volume = superquadrics(FORMS[:1], affine_matrices(Poses().draw(1, generator(0))), 80)
    traced = trace(module, volume, agreement=None)
    shape, sides = traced.shape, [80]
    for member in traced.network.members:
        shape = member.output_shape(shape)
        sides.append(int(shape.grid[0]))
    assert tuple(dict.fromkeys(sides)) == PUBLISHED.grids
    evidence("grids", "measured", "traced at 80^3: grids", len(PUBLISHED.grids), len(set(sides)), sense="equal")


@pytest.mark.slow
def test_the_certificate_refuses_leaky_relu_by_name_and_holds_for_a_smooth_activation(evidence) -> None:
    module, code = examples()["decoder"]
    code = code[:1]
    wanted = superquadrics(FORMS[:1], torch.eye(3, 4, dtype=DTYPE)[None], TINY.size)
    smooth = nn.Sequential(*(nn.ELU() if isinstance(part, nn.LeakyReLU) else part for part in module))
    rough, found = (
        certify(net, "squared_error", None, (code, wanted), radius=1e-3, measure=False) for net in (module, smooth)
    )
    assert rough.status == "not certified"
    assert "phi(z) = Piecewise((z, z > 0), (z/100, True))" in rough.reason
    evidence("layers", "derived", "decoder: smoothness constant within 0.001 of the weights", "oo", note=rough.reason)
    evidence(
        "layers",
        "measured",
        "decoder with ELU: smoothness constant within 0.001 of the weights, Hessian at the centre",
        found.smoothness_constant,
        found.hessian_lambda_max,
        finding="sharpened",
        note="ELU for leaky ReLU makes every second derivative of the decoder bounded",
    )
