"""OpenAI's speech API over HTTP. Knows requests, voices, text and audio containers; never imports
torch.
"""

from importlib import metadata

try:
    __version__ = metadata.version("qtts-openai")
except metadata.PackageNotFoundError:  # run from a folder where nothing can be installed
    __version__ = "0+unknown"
