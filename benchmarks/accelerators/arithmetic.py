"""The operations of matrix products and convolutions in compiled instructions."""

from __future__ import annotations

import math
import re

import numpy as np

from benchmarks.accelerators.hlo import Computation, Instruction, Module, Shape

_ONE = {"size": 1, "stride": 1, "lhs_dilate": 1, "rhs_dilate": 1}


def operations(module: Module, where: Computation, i: Instruction) -> int:
    """Multiplications and additions of the products in an instruction; of nothing else.

    Taps that meet padding or inserted zeros are not counted, except in cuDNN's own calls.
    """
    if i.opcode in ("fusion", "fusion-start", "call", "async-start"):
        inner = module.computations[i.called or ""]
        return sum(operations(module, inner, each) for each in inner)
    shapes = [each.shapes[0] for each in where.operands(i)[:2] if each.shapes]
    if i.opcode == "dot":
        contracted = _numbers(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
        return _product(i.shapes[0], shapes[0], contracted)
    if i.opcode == "convolution":
        return _convolution(i, *shapes)
    target = i.custom_target or ""
    if "gemm" in target or "matmul" in target:
        contracted = _numbers(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i.attributes)
        return _product(i.shapes[0], shapes[0], contracted)
    return _cudnn(i, target, *shapes) if "cudnn$conv" in target else 0


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in re.findall(r"\d+", found[1])] if found else []


def _product(out: Shape, left: Shape, contracted: list[int]) -> int:
    return 2 * out.elements * math.prod(left.dims[axis] for axis in contracted)


def _labels(i: Instruction) -> tuple[str, str, str]:
    """Which axis of input, kernel and output is what: of ``bf01_oi01->bf01``."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    if found is None:
        raise ValueError(f"A convolution without dim_labels: {i.attributes[:80]!r}")
    return found[1], found[2], found[3]


def _convolution(i: Instruction, left: Shape, right: Shape) -> int:
    """XLA's convolution, as which a TPU also writes its products, batched ones included."""
    inputs, kernel, outputs = _labels(i)
    out = i.shapes[0].dims
    spatial = sorted(axis for axis in kernel if axis.isdigit())
    window = _window(i, len(spatial))
    taps = 1
    for n, axis in enumerate(spatial):
        place = {name: values[n] for name, values in window.items()}
        taps *= _taps(left.dims[inputs.index(axis)], out[outputs.index(axis)], **place)
    summed = right.dims[kernel.index("i")]
    return 2 * taps * out[outputs.index("b")] * out[outputs.index("f")] * summed


def _window(i: Instruction, axes: int) -> dict[str, list[int]]:
    """Size, stride, dilations and low padding along each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", i.attributes)
    given = dict(part.split("=") for part in found[1].split()) if found else {}
    window = {
        name: [int(n) for n in given[name].split("x")] if name in given else [one] * axes
        for name, one in _ONE.items()
    }
    pads = given["pad"].split("x") if "pad" in given else ["0_0"] * axes
    return window | {"low": [int(pad.split("_")[0]) for pad in pads]}


def _taps(
    length: int, out: int, *, size: int, stride: int, lhs_dilate: int, rhs_dilate: int, low: int
) -> int:
    """Pairs of an output and a kernel's place, along one axis, that meet a real input."""
    outputs = np.arange(out)[:, None] * stride
    places = outputs + np.arange(size)[None] * rhs_dilate - low
    inside = (places >= 0) & (places <= (length - 1) * lhs_dilate)
    return int((inside & (places % lhs_dilate == 0)).sum())


def _cudnn(i: Instruction, target: str, first: Shape, second: Shape) -> int:
    """cuDNN's convolutions, whose window has every tap at every place."""
    _, labels, _ = _labels(i)
    if "BackwardFilter" in target:
        kernel, places = i.shapes[0], second
    elif "BackwardInput" in target:
        kernel, places = second, first
    else:
        kernel, places = second, i.shapes[0]
    summed = (n for n, axis in zip(kernel.dims, labels, strict=True) if axis != "o")
    return 2 * places.elements * math.prod(summed)
