"""What methods of distillation are made of, beside losses: on the server, and between models."""
