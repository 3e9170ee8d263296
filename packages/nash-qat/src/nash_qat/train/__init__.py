"""Training: phases, steps, losses, teachers, checkpoints, and which epoch is exported."""
