"""LoDoPaB-CT's HDF5 files."""
