"""Training residual networks in batches: every network alone gives the same, gradients are those of the written network, and refusals."""

from __future__ import annotations

import pytest
import torch

from numerics.device import DTYPE, choose, generator
from numerics.images import Images
from numerics.readers import load
from numerics.scaling.processes import fractional_noise
from numerics.scaling.training import OPTIMISERS, Trained, outputs, path_exponent, start, train


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    both = load("digits"), load("digits", split="test")
    assert all(isinstance(i, Images) for i in both)
    return both  # type: ignore[return-value]


def short(images: tuple[Images, Images], betas: tuple[float, ...], **more: object) -> Trained:
    return train("iid", betas, 6, 5, 3, images, steps=4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_scale_trained_alone_ends_where_it_ends_in_the_batch(images, optimiser: str) -> None:
    together = short(images, (0.25, 0.5, 1.0), optimiser=optimiser)
    alone = short(images, (0.5,), optimiser=optimiser)
    torch.testing.assert_close(together.before[:, :, 1], alone.before[:, :, 0], rtol=0, atol=0)
    # batched products add in another order
    torch.testing.assert_close(together.after[:, :, 1], alone.after[:, :, 0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(together.loss[:, :, 1], alone.loss[:, :, 0], rtol=1e-6, atol=1e-9)


def test_networks_of_one_seed_share_their_start_and_training_changes_them(images) -> None:
    found = short(images, (0.5, 1.0))
    assert torch.equal(found.before[:, :, 0], found.before[:, :, 1])
    assert found.loss.shape == (2, 3, 2)
    assert found.accuracy.shape == (3, 2)
    # every step along the gradient has the stated size: root mean square 3e-3, at most four times that after four steps
    change = (found.after - found.before).square().mean((3, 4, 5)).sqrt()
    assert 0 < float(change.min()) <= float(change.max()) <= 4 * 3e-3 * (1 + 1e-9)
    assert bool((found.moved(0) > 0).all())


def test_outputs_are_those_of_the_written_network() -> None:
    source = generator(0)
    A, V, W, B, x = (
        torch.randn(shape, generator=source, dtype=DTYPE)
        for shape in ((2, 4, 3), (2, 5, 4, 4), (2, 5, 4, 4), (2, 6, 4), (7, 3))
    )
    scales = torch.tensor([0.5, 0.25], dtype=DTYPE)
    found = outputs(x, A, V, W, B, scales)
    for n in range(2):
        h = A[n] @ x.T
        for k in range(5):
            h = h + scales[n] * V[n, k] @ (W[n, k] @ h).relu()
        torch.testing.assert_close(found[n], B[n] @ h, rtol=1e-12, atol=1e-12)


def test_the_exponent_is_zero_for_noise_one_for_smooth_weights_and_that_of_a_known_path() -> None:
    for kind, exponent in (("iid", 0.0), ("smooth", 1.0)):
        values = start(kind, 4, 256, 6, generator(1))
        assert float(values.var()) == pytest.approx(1 / 6, rel=0.1)
        found = path_exponent(values[0].flatten(2))
        # smooth weights vary over a tenth of the depth: 4 of 256 layers are short, and bend the slope by 0.004
        assert bool(((found - exponent).abs() < 0.02).all())
    for hurst in (0.3, 0.7):
        # fractional Brownian motion: increments over m steps have variance m^{2H} exactly
        path = fractional_noise(hurst, 512, (400,), generator(2)).cumsum(0)
        assert float(path_exponent(path[None])) == pytest.approx(hurst, abs=0.02)
    line = torch.arange(32, dtype=DTYPE)[None, :, None]
    assert float(path_exponent(line)) == pytest.approx(1)


def test_refusals(images) -> None:
    with pytest.raises(ValueError, match="weights 'rough' at the start"):
        start("rough", 1, 4, 2, generator(0))
    with pytest.raises(ValueError, match="optimiser 'lbfgs'"):
        short(images, (0.5,), optimiser="lbfgs")
    with pytest.raises(ValueError, match="0 steps"):
        train("iid", (0.5,), 4, 4, 2, images, steps=0)
    with pytest.raises(ValueError, match="paths of 4 layers"):
        path_exponent(torch.zeros(1, 4, 1))


@pytest.mark.cuda
@pytest.mark.skipif(choose().type != "cuda", reason="needs a CUDA device")
def test_a_gpu_trains_a_thousand_layers_at_the_published_width(images) -> None:
    found = train("smooth", (1.0,), 1000, 40, 2, images, steps=2, device=choose("cuda"))
    assert bool(found.loss.isfinite().all())
