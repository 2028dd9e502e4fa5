r"""Retrieval of a shape from its code under another affine pose, by autoencoders with and without a spatial transformer: paired trials over seeds.

Training shapes are superquadrics with exponents log-uniform in [0.2, 2] in random poses, fresh at every step; test shapes are the forms of `numerics.volumetric.volumes`,
each in several poses. Both networks of a trial start from the same encoder and decoder, see the same posed volumes and are to give back the same shapes in base
pose. Losses are `1 - D` of soft Dice (`theory.volumetric.dice`):

    plain:  loss(reconstruction, base volume)        transformed:  loss(reconstruction, base volume) + loss(resampled input, base volume)

This objective is a reconstruction: the source says soft Dice losses, not of what. A query is compared with the test volumes of all other poses by the Euclidean
distance of codes, standardised over the test set. Training runs in single precision, network by network: 3-D convolutions of several networks as one grouped
convolution took no less time on a processor (measured).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.skips.paired import Interval, interval
from numerics.volumetric.autoencoder import Aligned, Architecture
from numerics.volumetric.volumes import FORMS, Poses, affine_matrices, resample, soft_dice, superquadrics

EXPONENTS = (0.2, 2.0)
VARIANTS = ("plain", "transformed")


def base_pose(count: int) -> Tensor:
    """The identity map, `(count, 3, 4)`."""
    return torch.eye(3, 4, dtype=DTYPE).expand(count, 3, 4)


@dataclass(frozen=True)
class Protocol:
    """How a trial is run: architecture, steps of Adam with their batch and learning rate, poses of the training and test shapes, test poses a form."""

    architecture: Architecture
    steps: int
    batch: int = 16
    learning_rate: float = 1e-2
    transformer_rate: float = 1e-3
    poses: Poses = field(default_factory=Poses)
    test_poses: int = 6

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch) < 1
            or self.test_poses < 2
            or not min(self.learning_rate, self.transformer_rate) > 0
        ):
            raise ValueError(
                f"{self}: give at least one step, one shape a batch, two test poses, and positive learning rates"
            )

    @property
    def chance(self) -> float:
        """Mean average precision of random codes: a query ranks all forms in the other poses."""
        others = self.test_poses - 1
        return chance(others, len(FORMS) * others)

    def training_pairs(self, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """One batch: volumes in random poses, and the same shapes in base pose, `(batch, 1, n, n, n)` each."""
        low, high = map(math.log, EXPONENTS)
        exponents = (low + (high - low) * torch.rand(self.batch, 2, dtype=DTYPE, generator=source)).exp()
        maps, size = affine_matrices(self.poses.draw(self.batch, source)), self.architecture.size
        return superquadrics(exponents, maps, size), superquadrics(exponents, base_pose(self.batch), size)

    def test_set(self, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Volumes `(F P, 1, n, n, n)`, number of the form, number of the pose and maps `(F P, 3, 4)` for `F` forms in `P` poses each."""
        count = len(FORMS) * self.test_poses
        maps = affine_matrices(self.poses.draw(count, source))
        forms = torch.arange(len(FORMS)).repeat_interleave(self.test_poses)
        poses = torch.arange(self.test_poses).repeat(len(FORMS))
        return superquadrics(FORMS[forms], maps, self.architecture.size), forms, poses, maps


@dataclass(frozen=True)
class Trial:
    """What one network of one seed did.

    Attributes:
        top: share of queries whose nearest code is of the same form (chance: 1/8).
        precision: mean average precision of the ranking (chance: `chance`, about 0.2 for six poses).
        spread: squared distance of codes within a form over that between all codes, in (0, 1]; 0 is an invariant code.
        dice: mean soft Dice of test reconstructions with the form in base pose.
        losses: of training, a step each.
    """

    variant: str
    seed: int
    top: float
    precision: float
    spread: float
    dice: float
    losses: tuple[float, ...]


def ranking(codes: Tensor, forms: Tensor, poses: Tensor) -> tuple[float, float]:
    """Share of queries whose nearest neighbour among the codes of other poses has the query's form, and mean average precision.

    Args: codes `(n, c)`, form and pose of each. Errors: `ValueError` for fewer than two poses.
    """
    if len(poses.unique()) < 2:
        raise ValueError("retrieval needs at least two poses")
    scaled = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-12)
    distance = torch.cdist(scaled, scaled)
    distance = distance.masked_fill(poses[:, None] == poses[None, :], math.inf)
    order = distance.argsort(1)
    allowed = distance.gather(1, order).isfinite()
    hits = (forms[order] == forms[:, None]) & allowed
    ranks = torch.arange(1, len(codes) + 1, device=codes.device)
    precision = (hits.cumsum(1) / ranks * hits).sum(1) / hits.sum(1)
    return float(hits[:, 0].double().mean()), float(precision.mean())


def chance(relevant: int, ranked: int) -> float:
    """Expected average precision of a random ranking: `((R - 1)/(n - 1) (n - H_n) + H_n)/n` with `R` relevant of `n` and `H_n = sum_{k <= n} 1/k`.

    Rank `k` holds a relevant one with probability `R/n`, and of the `k - 1` before it `(k - 1)(R - 1)/(n - 1)` are relevant on average; so
    `E AP = (1/R) sum_k (R/n) (1 + (k - 1)(R - 1)/(n - 1))/k`.

    Errors: `ValueError` unless `1 <= relevant <= ranked` and `ranked >= 2`.
    """
    if not 1 <= relevant <= ranked or ranked < 2:
        raise ValueError(f"{relevant} relevant of {ranked}: give 1 <= relevant <= ranked and ranked >= 2")
    harmonic = math.fsum(1 / k for k in range(1, ranked + 1))
    return ((relevant - 1) / (ranked - 1) * (ranked - harmonic) + harmonic) / ranked


def spread(codes: Tensor, forms: Tensor) -> float:
    """Mean squared distance of codes to their form's mean over that to the mean of all, features standardised."""
    scaled = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-12)
    one_hot = torch.nn.functional.one_hot(forms).to(codes.dtype)
    means = one_hot.T @ scaled / one_hot.sum(0)[:, None]
    return float((scaled - means[forms]).square().sum() / (scaled - scaled.mean(0)).square().sum())


def train(protocol: Protocol, variant: str, seed: int) -> tuple[Aligned, tuple[float, ...]]:
    """A trained network in evaluation mode, and its losses.

    Errors: `ValueError` for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: use one of {', '.join(VARIANTS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = Aligned(protocol.architecture, False)
        network = Aligned(protocol.architecture, variant == "transformed")
    network.load_state_dict(plain.state_dict(), strict=False)
    optimiser = torch.optim.Adam(
        [
            {"params": [p for n, p in network.named_parameters() if n.startswith("transformer.") is part], "lr": rate}
            for part, rate in ((False, protocol.learning_rate), (True, protocol.transformer_rate))
        ]
    )
    source, losses = generator(seed), []
    for _ in range(protocol.steps):
        posed, base = (volumes.float() for volumes in protocol.training_pairs(source))
        reconstruction, aligned, _ = network(posed)
        loss = (1 - soft_dice(reconstruction, base)).mean()
        if variant == "transformed":
            loss = loss + (1 - soft_dice(aligned, base)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return network.eval(), tuple(losses)


def trial(protocol: Protocol, variant: str, seed: int) -> tuple[Trial, Aligned]:
    """Train one network and let it retrieve; the test set belongs to the seed."""
    network, losses = train(protocol, variant, seed)
    volumes, forms, poses, _ = protocol.test_set(generator(10_000 + seed))
    base = superquadrics(FORMS[forms], base_pose(len(forms)), protocol.architecture.size).float()
    with torch.no_grad():
        reconstruction, _, codes = network(volumes.float())
    codes = codes.double()
    top, precision = ranking(codes, forms, poses)
    dice = float(soft_dice(reconstruction, base).mean())
    return Trial(variant, seed, top, precision, spread(codes, forms), dice, losses), network


def voxels(protocol: Protocol, seed: int) -> dict[str, Trial]:
    """References without learning: the voxels themselves as the code, as they are, and put back by the true pose."""
    volumes, forms, poses, maps = protocol.test_set(generator(10_000 + seed))
    found = {}
    for name, given in (("voxels", volumes), ("voxels, true pose", resample(volumes, maps))):
        codes = given.flatten(1)
        codes = codes[:, codes.std(0) > 0]
        found[name] = Trial(name, seed, *ranking(codes, forms, poses), spread(codes, forms), 1.0, ())
    return found


def differences(
    table: dict[str, list[Trial]], first: str = "transformed", second: str = "plain"
) -> dict[str, Interval]:
    """Paired differences over seeds, first less second: `top`, `precision`, `spread`, `dice`, each with a bootstrap interval.

    Errors: `ValueError` where the seeds differ, or for fewer than three.
    """
    if [t.seed for t in table[first]] != [t.seed for t in table[second]]:
        raise ValueError(f"{first} and {second} have different seeds: pair them")
    return {
        name: interval(
            torch.tensor(
                [getattr(a, name) - getattr(b, name) for a, b in zip(table[first], table[second], strict=True)],
                dtype=DTYPE,
            )
        )
        for name in ("top", "precision", "spread", "dice")
    }
