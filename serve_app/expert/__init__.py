"""The small model that knows how."""
