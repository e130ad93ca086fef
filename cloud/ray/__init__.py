"""The verifier on a cluster, as a Ray Serve application."""
