"""Betti numbers of sublevel sets: shapes that are known, Morse theory on small losses, and the grid's resolution."""

from pathlib import Path

import numpy as np
import pytest
import sympy
from sympy import Rational

from numerics.topology import figures, sublevel
from numerics.topology.measured import Measured, measure
from numerics.topology.small import SmallLoss, small_losses, three_parameter_losses, wells

x, y, z = sympy.symbols("x y z", real=True)


@pytest.fixture
def with_gudhi() -> None:
    """The tests that need the optional extra."""
    pytest.importorskip("gudhi", reason='GUDHI is not installed: pip install "depthbound[topology]"')


@pytest.mark.usefixtures("with_gudhi")
@pytest.mark.parametrize(
    ("expression", "variables", "level", "betti"),
    [
        ((x**2 - 1) ** 2, (x,), 0.5, (2,)),
        ((x**2 - 1) ** 2, (x,), 1.5, (1,)),
        ((x**2 + y**2 - 1) ** 2, (x, y), 0.5, (1, 1)),
        ((x**2 + y**2 - 1) ** 2, (x, y), 1.5, (1, 0)),
        ((x**2 + y**2 + z**2 - 1) ** 2, (x, y, z), 0.5, (1, 0, 1)),
        ((sympy.sqrt(x**2 + y**2) - 1) ** 2 + z**2, (x, y, z), 0.1, (1, 1, 0)),
        (x**2 + y**2, (x, y), -0.5, (0, 0)),
    ],
)
def test_shapes_that_are_known(expression, variables, level, betti) -> None:
    found = sublevel.sublevel_persistence(expression, variables, ((-2.0, 2.0),) * len(variables), 41)
    assert found.betti(level) == betti
    assert level < found.border or betti[1:] == (0,) * (len(betti) - 1)


@pytest.mark.usefixtures("with_gudhi")
def test_a_coarse_grid_is_wrong_and_a_study_shows_it() -> None:
    thin = (x**2 + y**2 - 1) ** 2
    (study,) = sublevel.resolution_study(thin, (x, y), ((-2.0, 2.0),) * 2, (0.001,), (9, 33, 257, 513))
    assert study.rows[0][1] != (1, 1)
    assert study.betti == (1, 1)
    assert study.stable
    (coarse,) = sublevel.resolution_study(thin, (x, y), ((-2.0, 2.0),) * 2, (0.001,), (9, 257))
    assert not coarse.stable


@pytest.mark.usefixtures("with_gudhi")
def test_betti_numbers_agree_with_certified_critical_points_and_lie_below_the_bound() -> None:
    """Morse: `b_k <= #` points of index `k` below the level, and the Euler characteristics agree; at every level, for 42 losses."""
    several = 0
    for loss in small_losses():
        m = measure(loss, (33, 65, 129))
        assert m.studies, loss.name
        for study in m.studies:
            assert study.stable, (loss.name, study)
            below = [p for p in m.critical.points if p.value < study.level]
            for k, b in enumerate(study.betti):
                assert b <= sum(p.index == k for p in below), loss.name
            euler = sum((-1) ** k * b for k, b in enumerate(study.betti))
            if m.critical.outward:
                assert euler == sum((-1) ** p.index for p in below), loss.name
            assert sum(study.betti) <= len(below) <= loss.reading.sublevel_betti().exact()
            several += sum(study.betti) > 1
        assert m.largest_betti_sum >= 1
    assert several >= 10


def check_morse(m: Measured) -> None:
    """All critical points certified, none outside the box below the levels looked at; Betti numbers stable, and as Morse theory says."""
    assert m.critical.complete
    for study in m.studies:
        assert m.critical.outward or study.level < m.loss.covered
        assert study.stable, (m.loss.name, study)
        below = [p for p in m.critical.points if p.value < study.level]
        assert all(b <= sum(p.index == k for p in below) for k, b in enumerate(study.betti))
        assert sum((-1) ** k * b for k, b in enumerate(study.betti)) == sum((-1) ** p.index for p in below)
        assert sum(study.betti) <= len(below) <= m.loss.reading.sublevel_betti().exact()


@pytest.mark.usefixtures("with_gudhi")
def test_three_parameters_have_certified_critical_points_and_all_three_betti_numbers() -> None:
    biased, _, _, deep, silu = three_parameter_losses()
    for loss, points in ((biased, 3), (deep, 9)):
        m = measure(loss, (49, 65))
        check_morse(m)
        assert len(m.critical.points) == points
    m = measure(silu, (33, 65))
    check_morse(m)
    # 3^n critical points, binomially many of each index; a ring of tunnels, then a hollow, then a ball
    assert [sum(p.index == k for p in m.critical.points) for k in range(4)] == [8, 12, 6, 1]
    assert [s.betti for s in m.studies] == [(8, 0, 0), (1, 5, 0), (1, 0, 1), (1, 0, 0)]


@pytest.mark.slow
@pytest.mark.usefixtures("with_gudhi")
@pytest.mark.parametrize("index", range(5))
def test_three_parameters_on_a_finer_grid(index: int) -> None:
    check_morse(measure(three_parameter_losses()[index], (65, 129)))


@pytest.mark.usefixtures("with_gudhi")
def test_a_sublevel_set_with_a_hole() -> None:
    m = measure(wells(2), (65, 129))
    check_morse(m)
    assert [s.betti for s in m.studies] == [(4, 0), (1, 1), (1, 0)]


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sublevel, "gudhi", None)
    with pytest.raises(ValueError, match=r"depthbound\[topology\]"):
        sublevel.persistence(np.zeros((4, 4)))


def test_grids_and_their_refusals() -> None:
    values = sublevel.values_on_grid(x + 10 * y, (x, y), ((0.0, 1.0), (0.0, 2.0)), 3)
    assert values[2, 0] == 1
    assert values[0, 2] == 20
    assert sublevel.values_on_grid(sympy.Integer(1), (x,), ((0.0, 1.0),), 4).shape == (4,)
    with pytest.raises(ValueError, match="at least 3"):
        sublevel.values_on_grid(x, (x,), ((0.0, 1.0),), 2)
    with pytest.raises(ValueError, match="is above"):
        sublevel.values_on_grid(x, (x, y, z), ((0.0, 1.0),) * 3, 1000)
    with pytest.raises(ValueError, match="not finite"):
        sublevel.values_on_grid(sympy.exp(x), (x,), ((0.0, 1e4),), 4)
    with pytest.raises(ValueError, match="do not increase"):
        sublevel.resolution_study(x, (x,), ((0.0, 1.0),), (0.5,), (9, 5))


@pytest.mark.usefixtures("with_gudhi")
def test_pictures(tmp_path: Path) -> None:
    loss = SmallLoss("affine(1), tanh, affine(1)", "squared_error", Rational(1, 20), 4.0)
    e = loss.expression
    values = sublevel.values_on_grid(e.value, e.parameters, loss.box, 33)
    m = measure(loss)
    for made in (
        figures.level_sets(m, values, tmp_path / "levels"),
        figures.persistence_diagram(sublevel.persistence(values), tmp_path / "diagram", title=loss.spec),
    ):
        assert all(path.stat().st_size > 1000 for path in made)
    with pytest.raises(ValueError, match="two parameters, not 1"):
        figures.level_sets(measure(small_losses()[0]), values[0], tmp_path / "none")
