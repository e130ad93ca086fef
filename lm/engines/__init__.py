"""What runs a model: llama.cpp, ONNX, and the protocols that both follow."""
