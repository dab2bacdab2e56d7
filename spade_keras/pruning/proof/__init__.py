"""The means of `verify_plan`: random weights, and the masked original."""
