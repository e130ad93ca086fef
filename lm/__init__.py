"""What both sides share: engine, vocabulary, chat template, distributions, accept, resample."""
