"""What methods are made of, beside losses."""
