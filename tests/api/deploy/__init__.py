"""The files in deploy/, held by the tools that read them."""
