"""Many devices against one verifier: recorded traffic, played again at a chosen rate."""
