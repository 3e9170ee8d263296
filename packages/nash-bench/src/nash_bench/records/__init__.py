"""What is known of a network: its facts, its figures, which pictures it got right, and how files become that."""
