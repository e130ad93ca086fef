"""Profiles (TOML) and the configuration they fill."""
