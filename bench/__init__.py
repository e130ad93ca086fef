"""Benchmarks: what a device, a link and a strategy cost."""
