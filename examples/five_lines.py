"""From one line of description to a certificate of gradient descent, in five lines."""

from theory.convergence import certify
from theory.landscape import landscape
from theory.spec import parse

network = parse("affine(12), repeat(4, residual(tanh, affine(12, weight_norm=frobenius), scale(1/8))), crop(10)")
here = landscape(network, features=64)
certificate = certify(here, {"N": 8, "x_0": 9.7, "x_F": 11.5, "sigma": 1.2, "eps": 1})
print(here.tangent_kernel_lambda_min)
print("certified:", certificate.certified, "step size:", certificate.step_size, "limsup t * loss <=", certificate.rate)
