"""Hugging Face folder to ONNX."""
