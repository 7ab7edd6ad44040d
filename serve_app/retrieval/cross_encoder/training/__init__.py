"""How the cross-encoder is trained: rows, claims made of them, the fit, and its figures."""
