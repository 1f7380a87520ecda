"""The workloads' networks in PyTorch, for every system that trains with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners.job import Evaluation, Job, Measured

Weights = Mapping[str, NDArray[np.float32]]


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut padded with zeros; ReLU after the sum."""

    def __init__(self, before: int, after: int, stride: int, groups: int = 2) -> None:
        super().__init__()
        self.stride, self.grown = stride, after - before
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        kept = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(kept, (0, 0, 0, 0, 0, self.grown)) if self.grown else kept
        return functional.relu(self.norm2(self.conv2(y)) + shortcut)


def resnet8(num_classes: int) -> nn.Module:
    """The network of `fedjax_kd.models.resnet8`, with group normalisation in 2 groups."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.GroupNorm(2, 16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def cnn_cifar(num_classes: int) -> nn.Module:
    """The network of pfl-research's CIFAR-10 benchmark."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(14 * 14 * 64, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, num_classes),
    )


def mlp(num_classes: int) -> nn.Module:
    """64 inputs, 64 hidden units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_classes))


BUILDERS = {"mlp": mlp, "cnn_cifar": cnn_cifar, "resnet8": resnet8}


def build(job: Job) -> nn.Module:
    """The workload's network with its initial weights, on the device."""
    model = BUILDERS[job.settings["model"]](job.settings["num_classes"])
    parameters, weights = list(model.parameters()), job.weights
    with torch.no_grad():
        for parameter, (name, weight) in zip(parameters, weights.items(), strict=True):
            parameter.copy_(torch.from_numpy(_laid_out(name, weight, weights)))
    return model.to(device(), memory_format=_layout(job)).train()


def _laid_out(name: str, weight: NDArray[Any], weights: Weights) -> NDArray[Any]:
    """A neutral weight in PyTorch's layout: OIHW kernels, ``[out, in]``, flattened as CHW."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
    if weight.ndim != 2:
        return weight
    if name == "dense.0.kernel":
        channels = weights["convs.1.kernel"].shape[-1]
        side = round((len(weight) / channels) ** 0.5)
        by_place = weight.reshape(side, side, channels, -1)
        weight = by_place.transpose(2, 0, 1, 3).reshape(weight.shape)
    return np.ascontiguousarray(weight.T)


def examples(
    job: Job, x: NDArray[np.float32], y: NDArray[np.int32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """NHWC images and labels as tensors on the device, the images in NCHW."""
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(y.astype(np.int64))
    return images.to(device(), memory_format=_layout(job)), labels.to(device())


def _layout(job: Job) -> torch.memory_format:
    """How images and kernels lie in memory; which is faster depends on the network."""
    chosen = job.settings.get("channels_last")
    return torch.channels_last if chosen else torch.contiguous_format


def device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Waits until the device has done all it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.inference_mode()
def evaluate(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int) -> Evaluation:
    """Mean loss and accuracy of a model on the test set; the model is left in training mode."""
    model.eval()
    loss = torch.zeros((), device=x.device)
    right = torch.zeros((), device=x.device)
    for bx, by in zip(x.split(batch), y.split(batch), strict=True):
        logits = model(bx)
        loss += functional.cross_entropy(logits, by, reduction="sum")
        right += (logits.argmax(1) == by).sum()
    model.train()
    return loss.item() / len(y), right.item() / len(y)


def report(measured: Measured, model: nn.Module, *packages: str) -> None:
    """Writes the report of a run in PyTorch; names the versions of ``packages``."""
    jobs.report(
        measured,
        parameters=sum(p.numel() for p in model.parameters()),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        packages=packages,
    )
