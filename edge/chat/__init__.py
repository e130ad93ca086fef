"""A conversation: assembled from the configuration, in a terminal."""
