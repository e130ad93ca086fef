"""What a quantised model is worth."""
