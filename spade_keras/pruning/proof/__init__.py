"""What `verify_plan` needs: random weights, and the masked original."""
