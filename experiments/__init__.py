"""One-off scripts behind docs/results; run from a clone, not in the wheel."""
