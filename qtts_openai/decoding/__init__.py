"""Reading of audio that others send, apart from everything else.

client    asks for a file to be decoded; bounds who may ask, how long and how much
turns     a few at a time, one of a caller
zygote    a small process with the libraries loaded, which forks a child for each file
sandbox   what such a child gives up before it reads the file
decoder   bytes -> samples; runs in the child only

May import: nothing of the other folders.
"""
