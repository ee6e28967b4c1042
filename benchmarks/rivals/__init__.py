"""What runs in a rival's own environment, and checkpoints in a rival's format."""
