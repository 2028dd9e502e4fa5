"""A wide network whose training is certified beforehand, and obeys; and a narrower one that is not, with the hypothesis that fails.

Eight digits, whitened by a fixed linear map (the polar factor of the data, times 8); width 2,048, tanh, readout zero at the start. The
certificate says: gradient descent with this step stays within this radius, and the squared error falls at least by this rate, for ever.
"""

import torch
from torch import nn

from numerics.certify import certify
from numerics.datasets import digits

data = digits(8, seed=0)
left, _, right = torch.linalg.svd(data.X, full_matrices=False)
X, labels = 8 * (left @ right).T, data.labels
targets = torch.nn.functional.one_hot(labels, 10).double()


def network(width: int) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).double()
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    return model


model = network(2048)
certificate = certify(model, "squared_error", None, (X, labels), radius=0.5, measure=False)
print(
    f"width 2048: {certificate.status}; step {certificate.step_size:.4g}, rate {certificate.rate:.4f}, path at most {certificate.path_length:.4f} < 0.5"
)
start = [p.detach().clone() for p in model.parameters()]
obeys = True
for step in range(60):
    loss = (model(X) - targets).square().sum() / (2 * len(X))
    moved = sum((p - q).square().sum() for p, q in zip(model.parameters(), start, strict=True)).sqrt()
    envelope = certificate.loss_value * certificate.rate**step
    obeys &= bool(loss <= envelope * (1 + 1e-9)) and bool(moved <= certificate.path_length)
    if step % 15 == 0:
        print(f"  step {step:3d}: loss {loss:.3e} <= {envelope:.3e}, moved {moved:.4f}")
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p -= certificate.step_size * g
print("the run obeys its certificate:", obeys)
narrow = certify(network(128), "squared_error", None, (X, labels), radius=0.5, measure=False)
print(f"width 128: {narrow.status}, because {narrow.reason}")
