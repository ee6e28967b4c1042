"""OpenAI's speech API over HTTP. Knows requests, voices, text and audio containers; never imports
torch.
"""
