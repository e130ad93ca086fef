"""One reply: draft, decide, verify, commit."""
