"""Speech of text that comes while it is spoken.

`feed`     text as it comes -> segments that later text cannot change
`session`  LiveSession: the verbs and events of every dialect
`utterance` the text between two flushes, cut into pieces
`voice`    what a session is spoken with, and its way into the engine
`words`    which words were heard when, estimated
`socket`   a WebSocket with bounds: its key, its messages, its one writer
`dialect`  what the dialects have in common
`deepgram` those of /v1/speak and /v2/speak
`native`   the dialect of /v1/audio/speech/stream

May import: state, http, text, voices, speech, provenance and the root; not routes.
"""
