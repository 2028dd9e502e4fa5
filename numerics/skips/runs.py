"""One variant trained in one trial, from the trial's initial state: what was measured, saved as it goes, resumed to the same numbers."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from numerics.device import generator
from numerics.images import Images, Normalisation, as_values, digits_images, random_crop, random_flip, shaped
from numerics.readers import Folder, load
from numerics.report import write_atomically
from numerics.singular_values.dense import jacobian_singular_values
from numerics.singular_values.density import mean_singular_value
from numerics.singular_values.krylov import jacobian_products
from numerics.skips.modules import Described, as_module
from numerics.skips.protocols import Protocol

Progress = Callable[[int, int], None]
"""`(steps or epochs done, all of them)`."""

PRECISIONS = {"double": torch.float64, "single": torch.float32, "mixed": torch.float32}
"""Of the parameters; `mixed` computes in bfloat16 where torch's autocast says so."""
PROBES, TOLERANCE = 4, 0.02
"""Probe vectors of a mean singular value that is estimated matrix-free, and the half width of its interval that is aimed at."""


@dataclass(frozen=True)
class Task:
    """One variant at one learning rate in one trial: the unit of work.

    Attributes:
        protocol: how.
        variant: which network.
        learning_rate: of gradient descent.
        trial: number of the trial; with `seed` it decides images, batches and the initial state, which all variants share.
        seed: of the whole comparison.
        folder: of the data, None for data that need none.
        out: folder of the results; workers of a cluster see it (and `folder`) under the same path.
        precision: `double`, `single` or `mixed`.
        device: where it runs.
        spectra: whether singular values are measured.
    """

    protocol: Protocol
    variant: str
    learning_rate: float
    trial: int
    seed: int
    folder: str | None
    out: str
    precision: str = "double"
    device: str = "cpu"
    spectra: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved result must agree in: everything but where it lies and runs."""
        return {key: value for key, value in asdict(self).items() if key not in ("out", "device")}

    @property
    def file(self) -> Path:
        return Path(self.out) / "trials" / f"lr{self.learning_rate:g}-trial{self.trial}-{self.variant}.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.file.with_suffix(".checkpoint")


@dataclass(frozen=True, eq=False)
class Result:
    """What a task measured.

    Attributes:
        task: which.
        losses: `(T + 1,)` losses of the fixed batch before every step and after the last; with epochs `(T,)` mean training losses.
        spectra: `(M, n)` singular values of the outputs' Jacobian by the first block's input, descending, at the first `M` points;
            with epochs `(M, 1)`, their mean alone.
        accuracy: on the test set at the end; NaN where there is none.
    """

    task: Task
    losses: Tensor
    spectra: Tensor
    accuracy: float

    def save(self) -> None:
        """Atomically, into the task's file."""
        tensors = {"losses": self.losses, "spectra": self.spectra, "accuracy": torch.tensor(self.accuracy)}
        metadata = {"settings": json.dumps(self.task.settings)}
        write_atomically(self.task.file, safetensors.torch.save(tensors, metadata=metadata))


def saved(task: Task) -> Result | None:
    """The finished result of a task, None where there is none.

    Raises:
        ValueError: a file of other settings, or no result; it is named.
    """
    if not task.file.is_file():
        return None
    try:
        with safetensors.safe_open(str(task.file), "pt") as file:  # type: ignore[no-untyped-call]
            known = json.loads(file.metadata()["settings"])
            losses, spectra, accuracy = (file.get_tensor(name) for name in ("losses", "spectra", "accuracy"))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{task.file} is not the result of a trial ({error}): delete it, or give another --out"
        ) from None
    _agree(task, task.file, known)
    return Result(task, losses, spectra, float(accuracy))


def images_of(task: Task) -> tuple[Images | Folder, Images | Folder]:
    """Training and test images of a task, of the protocol's shape where they are held in memory.

    Raises:
        ValueError, FileNotFoundError: from the readers, naming file and remedy; a protocol on files without a folder.
    """
    protocol = task.protocol
    if protocol.data == "digits":
        return tuple(digits_images(split, protocol.image, task.seed) for split in ("train", "test"))  # type: ignore[return-value]
    if task.folder is None:
        raise ValueError(
            f"--protocol {protocol.name} reads {protocol.data} from files: name their folder with --data, or use --protocol digits"
        )
    found = [load(protocol.data, task.folder, split) for split in ("train", "test")]  # type: ignore[arg-type]
    return tuple(shaped(each, protocol.image) if isinstance(each, Images) else each for each in found)  # type: ignore[return-value]


def mixed(seed: int, *numbers: int) -> int:
    """A seed of its own for every trial (and epoch): small differences of the numbers lie far apart."""
    for number in numbers:
        seed = (seed * 6_364_136_223_846_793_005 + number * 1_442_695_040_888_963_407 + 1) % 2**62
    return seed


def run(task: Task, progress: Progress | None = None) -> Result:
    """Train and measure; a finished result is read instead, an unfinished run of epochs goes on from its checkpoint."""
    torch.set_num_threads(1 if task.device == "cpu" else torch.get_num_threads())
    done = saved(task)
    if done is None:
        done = (_descend if task.protocol.epochs == 0 else _train)(task, progress or (lambda *_: None))
        done.save()
        task.checkpoint.unlink(missing_ok=True)
    return done


def _module(task: Task, classes: int) -> Described:
    networks = {net.variant: net for net in task.protocol.networks(classes)}
    net = networks[task.variant]
    seed = mixed(task.seed, task.trial)
    return as_module(net.network, net.image, seed=seed, dtype=PRECISIONS[task.precision], device=task.device)


def fixed_batch(task: Task, train: Images | Folder) -> tuple[Tensor, Tensor]:
    """The trial's images (values in [0, 1]) and labels: the same for all variants and learning rates."""
    chosen = train.chosen(task.protocol.batch, mixed(task.seed, task.trial, 1))
    images = chosen if isinstance(chosen, Images) else shaped(chosen.batch(range(len(chosen))), task.protocol.image)
    return images.values(PRECISIONS[task.precision]).to(task.device), images.labels.to(task.device)


def spectrum(module: Described, images: Tensor) -> Tensor:
    """All singular values of the outputs' Jacobian by the first block's input, in training mode."""
    with torch.no_grad():
        inputs = module.part(images, 0, 1)
    return jacobian_singular_values(lambda x: module.part(x, 1), inputs).cpu()


def _descend(task: Task, progress: Progress) -> Result:
    """Full-batch gradient descent on the trial's images."""
    train, _ = images_of(task)
    images, labels = fixed_batch(task, train)
    module = _module(task, train.classes)
    losses, spectra = [], []
    for step in range(task.protocol.steps + 1):
        if task.spectra:
            spectra.append(spectrum(module, images))
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        losses.append(loss.detach().double().cpu())
        if step == task.protocol.steps:
            break
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.sub_(task.learning_rate * gradient)
        progress(step + 1, task.protocol.steps)
    return Result(task, torch.stack(losses), torch.stack(spectra) if spectra else torch.zeros(0, 0), float("nan"))


def _train(task: Task, progress: Progress) -> Result:
    """Epochs of SGD over mini-batches, checkpointed after each."""
    train, test = images_of(task)
    protocol, dtype = task.protocol, PRECISIONS[task.precision]
    normalise = Normalisation.measured(train if isinstance(train, Images) else _sample(train))
    module = _module(task, train.classes)
    optimiser = torch.optim.SGD(
        module.parameters(), task.learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    losses: list[float] = []
    means: list[Tensor] = []
    if task.checkpoint.is_file():
        state = _checkpoint(task)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        losses, means = state["losses"], list(state["means"])
    probe = fixed_batch(task, train)[0] if task.spectra else None
    for epoch in range(len(losses), protocol.epochs):
        if probe is not None:
            means.append(_mean(module, normalise(probe, dtype), mixed(task.seed, task.trial, epoch, 2)))
        for group in optimiser.param_groups:
            group["lr"] = task.learning_rate * protocol.factor ** (epoch // protocol.every)
        losses.append(_epoch(task, module, optimiser, train, normalise, epoch))
        buffer = io.BytesIO()
        torch.save(
            {
                "settings": json.dumps(task.settings),
                "module": module.state_dict(),
                "optimiser": optimiser.state_dict(),
                "losses": losses,
                "means": means,
            },
            buffer,
        )
        write_atomically(task.checkpoint, buffer.getvalue())
        progress(epoch + 1, protocol.epochs)
    spectra = torch.stack(means)[:, None] if means else torch.zeros(0, 0)
    return Result(task, torch.tensor(losses, dtype=torch.float64), spectra, _accuracy(task, module, test, normalise))


def _checkpoint(task: Task) -> dict[str, Any]:
    """The state after the last whole epoch.

    Raises:
        ValueError: a file of other settings, or no checkpoint; it is named.
    """
    try:
        state: dict[str, Any] = torch.load(task.checkpoint, weights_only=True, map_location=task.device)
        known = json.loads(state["settings"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{task.checkpoint} is not the checkpoint of a trial ({error}): delete it, or give another --out"
        ) from None
    _agree(task, task.checkpoint, known)
    return state


def _agree(task: Task, file: Path, known: Mapping[str, Any]) -> None:
    """Refuse a file of another run, naming it and the first setting that differs."""
    for name, value in json.loads(json.dumps(task.settings)).items():
        if known.get(name) != value:
            raise ValueError(
                f"{file} is of another run ({name} is {known.get(name)!r}, not {value!r}): give another --out"
            )


def _sample(folder: Folder) -> Images:
    """Some images of a folder, from which the channels' means and deviations are measured."""
    return folder.chosen(min(len(folder), 512), 0).batch(range(min(len(folder), 512)))


def _mean(module: Described, images: Tensor, seed: int) -> Tensor:
    """The mean singular value of the outputs' Jacobian by the first block's input, estimated without the matrix."""
    with torch.no_grad():
        inputs = module.part(images, 0, 1)
    products = jacobian_products(lambda x: module.part(x, 1), inputs)
    source = generator(seed, images.device)
    found = mean_singular_value(products, tolerance=TOLERANCE, probes=PROBES, max_probes=4 * PROBES, generator=source)
    return found.value.double().reshape(()).cpu()


def _epoch(
    task: Task,
    module: Described,
    optimiser: torch.optim.SGD,
    train: Images | Folder,
    normalise: Normalisation,
    epoch: int,
) -> float:
    """One epoch; the mean loss of its batches. Order, crops and flips depend on seed, trial and epoch alone, so all variants see the same."""
    source, protocol = generator(mixed(task.seed, task.trial, epoch, 3)), task.protocol
    module.train()
    total, order = 0.0, torch.randperm(len(train), generator=source)
    batches = [b for b in order.split(protocol.batch) if len(b) > 1]
    for indices in batches:
        batch = train.batch(indices)
        pixels = batch.pixels
        if protocol.augmented:
            pixels = random_flip(random_crop(pixels, 4, source), source)
        images = normalise(as_values(pixels).to(task.device), PRECISIONS[task.precision])
        with torch.autocast(images.device.type, torch.bfloat16, enabled=task.precision == "mixed"):
            loss = torch.nn.functional.cross_entropy(
                module(images).float() if task.precision == "mixed" else module(images), batch.labels.to(task.device)
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
    return total / len(batches)


def _accuracy(task: Task, module: Described, test: Images | Folder, normalise: Normalisation) -> float:
    module.eval()
    right = 0
    with torch.no_grad():
        for indices in torch.arange(len(test)).split(task.protocol.batch):
            batch = test.batch(indices)
            images = normalise(as_values(batch.pixels).to(task.device), PRECISIONS[task.precision])
            right += int((module(images).argmax(1).cpu() == batch.labels).sum())
    module.train()
    return right / len(test)
