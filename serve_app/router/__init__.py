"""Which road answers a query best for least money."""
