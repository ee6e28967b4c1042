"""Times the engine beside what the hardware allows at best (`qtts bench`).

May import: everything in engine; nothing there imports it.
"""
