"""The way to the verifier, and what may go wrong on it."""
