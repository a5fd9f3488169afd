"""What a run will take here, measured before it starts."""
