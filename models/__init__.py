"""Models by name: the shipped pair, the catalogue, the hub, the store."""
