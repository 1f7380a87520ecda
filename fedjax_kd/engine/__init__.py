"""How a round runs: clients in chunks and over devices, blocks of rounds, evaluation, checks."""
