"""The symbols that bounds are written in.

`N` samples, `d` features and `m` output features are positive integers; `eps` is the constant under the square root of a
normalisation; `r` bounds the Frobenius norm of a feature matrix and `rho` the Euclidean norm of each parameter array; `x_0`, `x_F` and `sigma`
are the operator norm, the Frobenius norm and the least singular value `sigma_N` of the data `X_0`, `x_s` the largest norm of a sample; `K` is the number of classes, `L` the depth
of a repeated block, `c` a branch scale, `ell` a value of the loss and `eta` a step size.
"""

from sympy import Symbol

N = Symbol("N", integer=True, positive=True)
d = Symbol("d", integer=True, positive=True)
m = Symbol("m", integer=True, positive=True)
K = Symbol("K", integer=True, positive=True)
L = Symbol("L", integer=True, positive=True)
eps = Symbol("eps", positive=True)
r = Symbol("r", positive=True)
rho = Symbol("rho", positive=True)
x_0 = Symbol("x_0", positive=True)
x_F = Symbol("x_F", positive=True)
x_s = Symbol("x_s", positive=True)
sigma = Symbol("sigma", positive=True)
c = Symbol("c", positive=True)
ell = Symbol("ell", positive=True)
eta = Symbol("eta", positive=True)

KNOWN = {symbol.name: symbol for symbol in (N, d, m, K, L, eps, r, rho, x_0, x_F, x_s, sigma, c, ell, eta)}
