"""The channel: a model of it, and real slow links."""
