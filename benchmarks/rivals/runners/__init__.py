"""One program a system, run in its own environment: ``MODULE WORK.npz WORK.json OUT.json``."""
