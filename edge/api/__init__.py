"""The device for programs: a Python API, an OpenAI-compatible server and its web page."""
