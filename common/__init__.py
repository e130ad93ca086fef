"""What every room may use: errors, text made harmless, files, a worker thread, tables, pictures."""
