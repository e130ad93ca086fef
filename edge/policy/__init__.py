"""When to ask the cloud."""
