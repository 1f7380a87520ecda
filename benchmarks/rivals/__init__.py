"""Other simulators on the same arrays as ours; ``python -m benchmarks.rivals``.

Nothing may be imported here: the runners pass through this file in the rivals' own environments.
"""
