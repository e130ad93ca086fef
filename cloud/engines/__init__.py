"""Engines of other projects as the verifier's large model, asked over HTTP."""
