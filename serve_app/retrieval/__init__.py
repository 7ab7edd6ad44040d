"""What the company knows: ingest, search, evidence."""
