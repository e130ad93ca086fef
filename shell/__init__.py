"""What a shell wants of the command: completion, a man page, the reference in docs/."""
