"""Functions from an algorithm to an algorithm, one file each."""
