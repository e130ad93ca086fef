"""Model preparation: convert, quantise, measure, check."""
