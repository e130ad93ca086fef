"""Joules."""
