"""Layers that stay fast when clients are stacked: matrix products in place of convolutions."""

from functools import partial

from flax import nnx

from fedjax_kd.nn.conv import conv_general_dilated
from fedjax_kd.nn.norm import GroupNorm, batch_norm
from fedjax_kd.nn.pooling import avg_pool, max_pool

Conv = partial(nnx.Conv, conv_general_dilated=conv_general_dilated)

__all__ = ["Conv", "GroupNorm", "avg_pool", "batch_norm", "conv_general_dilated", "max_pool"]
