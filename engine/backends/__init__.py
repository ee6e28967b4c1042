"""Other talker engines than ours, each in a folder of its own that only start-up reaches."""
