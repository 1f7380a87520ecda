"""Convolutions of float32 in C++, for CPUs; see the README of this folder."""
