"""What device and cloud share: engine, vocabulary, chat template, distributions, accept and resample."""
