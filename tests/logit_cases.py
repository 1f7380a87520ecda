"""Logits that losses of distillation must bear."""

from __future__ import annotations

import numpy as np

LABELS = np.array([0, 2], np.int32)


ORDINARY = [[0.3, -1.2, 0.5], [2.0, 0.1, -0.4]]


HARD = np.array(
    [
        (ORDINARY, [[1.0, 0.2, -0.1], [0.0, 0.7, 0.9]]),
        ([[1e4, -1e4, 0], [1e4, -1e4, 0]], [[-1e4, 1e4, 0], [1e4, 1e4, 1e4]]),
        ([[1e4, 0, -1e4], [0, 0, 1e4]], [[1e4, 0, -1e4], [0, 0, 1e4]]),
        ([[0, 0, 0], [0, 0, 0]], [[1e4, -1e4, 0], [-1e4, 1e4, 0]]),
        ([[1e4, -1e4, 0], [5, 5, 5]], [[0, 0, 0], [0, 0, 0]]),
        ([[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]),
    ],
    np.float32,
)
