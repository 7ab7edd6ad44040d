"""How good each layer is: one module for each."""
