"""With a branch scale c / L nothing is lost with depth: the composed bounds in the symbolic depth L, and their limits."""

from theory import symbols
from theory.landscape import landscape
from theory.limits import depth_limit
from theory.spec import parse

network = parse("affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius), scale(c/L))), crop(K)")
here = landscape(network, features=symbols.d)
for bound in (here.first_derivative, here.tangent_kernel_lambda_min):
    print(bound)
    print("    as L -> oo:", depth_limit(bound, symbols.L))
print(here.tangent_kernel_lambda_min.explain().splitlines()[0])
