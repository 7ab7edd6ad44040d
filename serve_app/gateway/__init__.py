"""The HTTP face: OpenAI's wire format, and what surrounds it."""
