"""The volumetric autoencoder: its grids, its blocks, its transformer, the gains of its members, and retrieval by codes."""

import itertools

import pytest
import torch
from torch import nn

from numerics.certification.gains import gains, measured_total, total
from numerics.device import DTYPE, generator
from numerics.trace import trace
from numerics.volumetric.autoencoder import (
    PUBLISHED,
    REDUCED,
    SMALL,
    Aligned,
    Architecture,
    SpatialTransformer,
    decoder,
    encoder,
    grids,
)
from numerics.volumetric.figures import bars, slices
from numerics.volumetric.retrieval import Protocol, chance, differences, ranking, spread, train, trial, voxels
from numerics.volumetric.volumes import FORMS, Poses, affine_matrices, superquadrics

TINY = Architecture(size=12, levels=2, width=2, code=4, transformer_width=4)


def test_grids_halve_to_one_voxel_and_back() -> None:
    assert PUBLISHED.grids == (80, 40, 20, 10, 5, 1)
    assert REDUCED.grids == (24, 12, 6, 3, 1)
    for of in (PUBLISHED, REDUCED, SMALL, TINY):
        with torch.device("meta"):
            volume, code = torch.empty(1, 1, *[of.size] * 3), torch.empty(1, of.code, 1, 1, 1)
            down, up = grids(encoder(of), volume), grids(decoder(of), code)
        assert list(dict.fromkeys(down)) == [(side,) * 3 for side in of.grids]
        assert list(dict.fromkeys(up)) == [(side,) * 3 for side in of.grids[-2::-1]]


def test_the_transformer_starts_as_the_identity_and_its_last_grid_gives_256_numbers() -> None:
    with torch.device("meta"):
        assert SpatialTransformer(PUBLISHED).flat == 256
    volume = superquadrics(FORMS[:2], affine_matrices(Poses().draw(2, generator(0))), SMALL.size)
    out, parameters = SpatialTransformer(SMALL).double()(volume)
    torch.testing.assert_close(out, volume, rtol=0, atol=1e-13)
    assert parameters.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0]] * 2


def test_a_size_that_does_not_halve_is_refused() -> None:
    for size, levels in ((25, 3), (24, 1), (16, 3)):
        with pytest.raises(ValueError, match=f"{size} voxels and {levels} halvings"):
            Architecture(size=size, levels=levels)


def test_gains_are_bounded_and_nearly_attained_by_convolutions() -> None:
    torch.manual_seed(0)
    volume = superquadrics(FORMS[:2], affine_matrices(Poses().draw(2, generator(0))), TINY.size)
    codes = torch.randn(2, TINY.code, 1, 1, 1, dtype=DTYPE, generator=generator(1))
    for module, example in ((encoder(TINY), volume), (decoder(TINY), codes)):
        traced = trace(module.double(), example)
        found = gains(traced, example)
        assert all(gain.measured <= gain.bound for gain in found)
        assert all(gain.measured > 0.9 * gain.bound for gain in found if gain.member.startswith("conv"))
        assert measured_total(traced, example) <= total(found)
        assert any(gain.rough for gain in found)
    smooth = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2), nn.Sigmoid()).double()
    assert not any(gain.rough for gain in gains(trace(smooth, volume), volume))


def test_ranking_finds_equal_codes_and_is_chance_for_codes_of_poses() -> None:
    forms, poses = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    perfect = torch.nn.functional.one_hot(forms).to(DTYPE)
    assert ranking(perfect, forms, poses) == (1.0, 1.0)
    assert spread(perfect, forms) == pytest.approx(0, abs=1e-12)
    blind = torch.randn(12, 2, dtype=DTYPE, generator=generator(0))
    assert ranking(blind, forms, poses)[1] < 0.9
    with pytest.raises(ValueError, match="two poses"):
        ranking(perfect, forms, torch.zeros(12))


def test_chance_is_the_mean_over_random_rankings() -> None:
    # all rankings of 5 with 2 relevant
    found = []
    for hits in itertools.combinations(range(1, 6), 2):
        found.append(sum((i + 1) / rank for i, rank in enumerate(hits)) / 2)
    assert chance(2, 5) == pytest.approx(sum(found) / len(found), rel=1e-13)
    assert chance(5, 5) == pytest.approx(1)
    with pytest.raises(ValueError, match="6 relevant of 5"):
        chance(6, 5)


def test_both_variants_of_a_trial_start_alike_and_are_repeated_by_their_seed() -> None:
    protocol = Protocol(TINY, steps=2, batch=4, test_poses=2)
    one, again = (train(protocol, "transformed", 3) for _ in range(2))
    assert one[1] == again[1]
    plain = train(protocol, "plain", 3)
    assert plain[0].transformer is None
    assert plain[1][0] < one[1][0] < plain[1][0] + 1  # the same first reconstruction, and the second loss on top
    found, network = trial(protocol, "plain", 0)
    assert isinstance(network, Aligned)
    assert 0 <= found.top <= 1
    table = {name: [trial(protocol, name, seed)[0] for seed in range(3)] for name in ("plain", "transformed")}
    assert differences(table)["top"].trials == 3
    reference = voxels(protocol, 0)
    assert reference["voxels, true pose"].precision > reference["voxels"].precision
    with pytest.raises(ValueError, match="unknown variant 'affine'"):
        train(protocol, "affine", 0)
    with pytest.raises(ValueError, match="different seeds"):
        differences({"plain": table["plain"][:1], "transformed": table["transformed"]})


def test_figures_have_a_row_a_kind_and_a_bar_a_variant() -> None:
    volume = superquadrics(FORMS[:3], torch.eye(3, 4, dtype=DTYPE).expand(3, 3, 4), 12)
    assert len(slices({"input": volume, "back": volume}).axes) == 6
    assert len(bars({"a": [0.1, 0.2], "b": [0.3]}, chance=0.125, ylabel="share").axes[0].patches) == 2
    with pytest.raises(ValueError, match=r"rows of \[2, 3\]"):
        slices({"input": volume, "back": volume[:2]})
