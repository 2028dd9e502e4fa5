"""Adam as a formula: against the recursion by hand, and the identities of scaling."""

import pytest
import sympy

from theory.adaptive import adam_direction, beta_1, beta_2, rho, scaling_steps


def test_the_first_update_has_length_one_and_later_ones_follow_the_recursion() -> None:
    g, eps = sympy.symbols("g eps", positive=True)
    assert sympy.simplify(adam_direction([g], eps) - g / (g + eps)) == 0
    first, second = sympy.symbols("g_1 g_2", positive=True)
    m = (beta_1 * (1 - beta_1) * first + (1 - beta_1) * second) / (1 - beta_1**2)
    v = (beta_2 * (1 - beta_2) * first**2 + (1 - beta_2) * second**2) / (1 - beta_2**2)
    assert sympy.simplify(adam_direction([first, second], eps) - m / (sympy.sqrt(v) + eps)) == 0
    with pytest.raises(ValueError, match="at least one"):
        adam_direction([], eps)


def test_scaling_is_exact_for_one_factor_only() -> None:
    assert all(step.verify() for step in scaling_steps())
    g, eps = sympy.symbols("g:2", positive=True), sympy.Symbol("eps", positive=True)
    one = adam_direction([x / rho for x in g], eps)
    assert sympy.simplify(one - adam_direction(g, rho * eps)) == 0
    assert sympy.simplify(one - adam_direction(g, eps)) != 0
    changing = adam_direction([g[0], g[1] / rho], eps)
    assert sympy.simplify(changing - adam_direction(g, rho * eps)) != 0
