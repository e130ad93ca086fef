"""How u foretells rejection for a pair, and which thresholds follow."""
