"""The outside models, kept for real reasoning."""
