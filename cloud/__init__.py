"""The verifier: wire format, sessions, HTTP app."""
