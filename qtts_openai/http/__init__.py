"""What stands between a socket and the routes: the protocol and its bounds (`protocol`), the server
around it (`server`), and what every request passes first (`front`).

May import: decoding and the root; not voices, speech, routes.
"""
