"""What device and verifier say to each other."""
