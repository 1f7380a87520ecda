"""Sums that are divided by counts which travel beside them."""

from __future__ import annotations

from fedjax_kd.core import Reducer, total

summed = Reducer("summed", total.accumulate, total.finalise)
"""The sum over clients of what they have different amounts of, such as features of a class.

It is `total` by another name: what a robust rule does to each coordinate alone must not be done to
a sum here and to its count there.
"""
