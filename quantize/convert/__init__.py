"""Hugging Face folder to GGUF."""
