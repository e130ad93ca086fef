"""Model files, checked before llama.cpp sees them."""
