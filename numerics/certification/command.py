"""The command `depthbound certify package.module:factory`: a module as it is, data, a radius, and what is certified around its weights."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from numerics.certification.attack import Attack, attack
from numerics.certify import LOSSES, LocalCertificate, certify, problem
from numerics.datasets import digits
from numerics.report import to_json, write_atomically

DATA = ("digits", "gaussian")

app = typer.Typer(add_completion=False)


def load(target: str) -> nn.Module:
    """The module that `package.module:factory` names: an instance, or a class or function that is called without arguments.

    Raises:
        ValueError: naming what cannot be found or is no module.
    """
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise ValueError(f"model {target!r}: write package.module:factory, for example mymodels.small:build")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {name!r}: {error}; run the command where the package can be imported"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"{name} has no {attribute!r}: it has {', '.join(k for k in vars(found) if not k.startswith('_'))}"
            )
        found = getattr(found, part)
    made = found if isinstance(found, nn.Module) else found() if callable(found) else found
    if not isinstance(made, nn.Module):
        raise ValueError(f"{target} gives {type(made).__name__}: give a torch.nn.Module or a function that returns one")
    return made


def inputs_of(data: str, samples: int, seed: int, shape: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Inputs, one a row, in the shape that the module takes, and labels.

    Raises:
        ValueError: an unknown data set, or a shape with another number of entries.
    """
    if data == "digits":
        known = digits(samples, seed)
        X, labels = known.X.T, known.labels
    elif data == "gaussian":
        if shape is None:
            raise ValueError("--data gaussian needs --shape, for example --shape 3,32,32")
        source = torch.Generator().manual_seed(seed)
        size = int(torch.tensor(shape).prod())
        X = torch.randn(samples, size, generator=source, dtype=torch.float64)
        labels = torch.randint(0, 10, (samples,), generator=source)
    else:
        raise ValueError(f"unknown data {data!r}: use one of {', '.join(DATA)}")
    if shape is None:
        return X, labels
    if int(torch.tensor(shape).prod()) != X.shape[1]:
        raise ValueError(f"--shape {','.join(map(str, shape))}: a sample of {data} has {X.shape[1]} numbers")
    return X.reshape(samples, *shape), labels


def _number(value: float) -> str:
    return f"{value:.6g}"


def table(target: str, found: list[tuple[LocalCertificate, Attack | None]]) -> Table:
    """One column a radius."""
    first = found[0][0]
    title = (
        f"{target}: {first.parameters} parameters, {first.samples} samples, {first.loss}, loss {first.loss_value:.6g}"
    )
    out = Table(
        "on the ball of radius R around the present weights", *(f"R = {c.radius:g}" for c, _ in found), title=title
    )
    rows: list[tuple[str, Any]] = [
        ("status", lambda c: c.status),
        (f"largest Hessian eigenvalue at the centre ({first.hessian_method})", lambda c: _number(c.hessian_lambda_max)),
        ("smoothness constant", lambda c: _number(c.smoothness_constant)),
        ("  by the route", lambda c: c.route),
        ("  composition rule on the ball", lambda c: _number(c.routes["composition"])),
        ("  centre + R x Lipschitz constant of the Hessian", lambda c: _number(c.routes["centre"])),
        ("largest certified step", lambda c: _number(c.step_size)),
        ("|DF| at most", lambda c: _number(c.first_derivative)),
        ("|D^2 F| at most", lambda c: _number(c.second_derivative)),
        ("lambda_min(DF DF^T) at the centre", lambda c: _number(c.tangent_kernel_centre)),
        ("lambda_min(DF DF^T) on the ball, at least", lambda c: f"{_number(c.tangent_kernel_ball)} ({c.kernel_route})"),
        (f"path of the descent to loss {first.target:.3g}, at most", lambda c: _number(c.path_length)),
        ("steps to get there, at most", lambda c: _number(c.steps)),
    ]
    for name, cell in rows:
        out.add_row(name, *(cell(c) for c, _ in found))
    if found[0][1] is not None:
        out.add_row("largest eigenvalue found in the ball", *(_number(a.curvature) if a else "" for _, a in found))
        out.add_row("found / certified", *(_number(a.tightness) if a else "" for _, a in found))
    return out


@app.command("certify")
def command(
    model: Annotated[str, typer.Argument(help="package.module:factory of a torch.nn.Module.")],
    radius: Annotated[
        list[float], typer.Option(help="Radius of the ball around the present weights; may be repeated.")
    ],
    data: Annotated[str, typer.Option(help="digits (scikit-learn's) or gaussian.")] = "digits",
    samples: Annotated[int, typer.Option(min=2, help="Number of samples.")] = 16,
    shape: Annotated[str | None, typer.Option(help="Shape of one sample, for example 1,8,8.")] = None,
    loss: Annotated[str, typer.Option(help=" or ".join(LOSSES))] = LOSSES[0],
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the choice of samples, and of torch before the factory is called.")
    ] = 0,
    target: Annotated[float | None, typer.Option(help="Loss to be reached by gradient descent.")] = None,
    attacked: Annotated[
        int, typer.Option("--attack", min=0, help="Random weights to try in every ball, beside a search.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.", metavar="FILE")] = None,
) -> None:
    """Certified curvature, step size, tangent kernel and convergence of a torch.nn.Module around its present weights.

    Exit status 0 where every certificate stands, 1 where an attack breaks one, 2 on bad input.
    """
    sizes = tuple(int(part) for part in shape.split(",")) if shape else None
    inputs = inputs_of(data, samples, seed, sizes)
    torch.manual_seed(seed)
    module = load(model)
    found: list[tuple[LocalCertificate, Attack | None]] = []
    with Console(stderr=True).status("certifying"):
        for each in radius:
            certificate = certify(module, loss, None, inputs, radius=each, target=target)
            tried = None
            if attacked and certificate.smoothness_constant < float("inf"):
                tried = attack(certificate, problem(module, loss, None, inputs), random=attacked, seed=seed)
            found.append((certificate, tried))
    if json:
        records = [
            {
                "model": model,
                **c.as_record(),
                **({} if a is None else {"found_curvature": a.curvature, "holds": a.holds}),
            }
            for c, a in found
        ]
        text = to_json(records[0] if len(records) == 1 else records) + "\n"
    else:
        buffer = io.StringIO()
        console = Console(file=None if out is None else buffer, width=None if sys.stdout.isatty() else 160)
        console.print(table(model, found))
        for certificate, _ in found:
            because = f", because {certificate.reason}" if certificate.reason else ""
            lines = [
                f"R = {certificate.radius:g}: {certificate.status}{because}",
                *(f"  {c}" for c in certificate.hypotheses),
            ]
            console.print("\n".join(lines), highlight=False, soft_wrap=True)
        text = buffer.getvalue()
    if out is not None:
        write_atomically(out, text)
    elif json:
        sys.stdout.write(text)
    if any(a is not None and not a.holds for _, a in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
