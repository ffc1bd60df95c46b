"""Kernels: loops over elements and tokens that recorders share, compiled to machine code, and the statistics that they fill."""
