"""The class of networks whose gradient descent is certified, one spec a kind of branch and readout, at any width, depth and branch scale `c / L`."""

from __future__ import annotations

from collections.abc import Mapping

DEPTH, WIDTH, SCALE = 4, 12, "1/8"

_TRUNK = "affine({width}), repeat({depth}, residual({branch}, scale({scale}/{depth}))), {readout}"
_CONV = "conv({channels}, kernel=(3, 3), padding=(1, 1), weight_norm=frobenius, eps=1)"
_NORMED = "affine({width}, weight_norm=frobenius, eps=1)"

_BRANCHES: Mapping[str, tuple[str, str]] = {
    "weights normalised as a whole": (f"tanh, {_NORMED}", "{scale}"),
    "weights normalised row by row": ("tanh, affine({width}, weight_norm=row, eps=1)", "{scale}/4"),
    "weights normalised entry by entry": ("tanh, affine({width}, weight_norm=entry, eps=1)", "{scale}/{width}"),
    "two layers a branch": (f"tanh, {_NORMED}, sigmoid, {_NORMED}", "{scale}"),
    "arctan": (f"arctan, {_NORMED}", "{scale}"),
    "batch norm": (f"batch_norm(eps=1), tanh, {_NORMED}", "{scale}"),
    "batch norm, variance floor 1/100": (f"batch_norm(eps=1/100), tanh, {_NORMED}", "{scale}/10"),
    "batch norm, linear": (f"batch_norm(eps=1), {_NORMED}", "{scale}"),
    "layer norm": (f"layer_norm(eps=1), {_NORMED}", "{scale}"),
    "RMS norm": (f"rms_norm(eps=1), {_NORMED}", "{scale}"),
    "RMS norm with GELU": (f"rms_norm(eps=1), gelu, {_NORMED}", "{scale}/2"),
}
_READOUTS: Mapping[str, str] = {
    "crop": "crop({classes})",
    "scaled": "scale(2), crop({classes})",
    "a residual layer": "residual(arctan, affine({width}, weight_norm=frobenius, eps=1), scale(1/8)), crop({classes})",
    "average of pairs": "reshape({half}, grid=(2)), global_avg_pool, crop({classes})",
}


def members(classes: int = 10, *, width: int = 0, depth: int = DEPTH, scale: str = SCALE) -> dict[str, str]:
    """The specs by name: every branch with the plain readout, every other readout with the plain branch, and a convolutional trunk.

    Args:
        classes: `K`.
        width: of the trunk, at least `2 K` for the readout that averages; by default the larger of that and `WIDTH`.
        depth: `L`.
        scale: `c`, as text; branches are scaled by `c / L`, smaller where the branch's own slope needs it.
    """
    width = width or max(WIDTH, 2 * classes)
    sizes = {
        "width": width,
        "half": width // 2,
        "depth": depth,
        "classes": classes,
        "channels": classes,
        "pixels": 9 * classes,
    }
    out = {}
    for name, (branch, own) in _BRANCHES.items():
        values = sizes | {"scale": own.format(scale=scale, **sizes)}
        out[name] = _TRUNK.replace("{branch}", branch).replace("{readout}", _READOUTS["crop"]).format(**values)
    plain = _BRANCHES["weights normalised as a whole"][0]
    for name, readout in _READOUTS.items():
        if name != "crop":
            spec = _TRUNK.replace("{branch}", plain).replace("{readout}", readout)
            out[f"readout: {name}"] = spec.format(**sizes, scale=scale)
    trunk = "affine({pixels}), reshape({channels}, grid=(3, 3)), repeat({depth}, residual({branch}, scale({scale}/{depth}/3))), {readout}"
    for name, before in (
        ("convolutions", "tanh"),
        ("convolutions with group norm", "group_norm(groups=2, eps=1), tanh"),
    ):
        spec = trunk.replace("{branch}", f"{before}, {_CONV}").replace("{readout}", "global_avg_pool")
        out[name] = spec.format(**sizes, scale=scale)
    return out
