"""A run as plain data, and its folder."""
