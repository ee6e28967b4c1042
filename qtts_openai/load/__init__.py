"""Load on a speech server: `qtts load`."""
