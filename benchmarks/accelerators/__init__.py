"""What becomes of the engine's programs on GPUs and TPUs, found without one by compiling for them.

Nothing runs: what is told of a program is read from what XLA made of it (``hlo``, ``loops``,
``arithmetic``, ``traffic``, ``costs``) for a described device (``targets``).
"""
