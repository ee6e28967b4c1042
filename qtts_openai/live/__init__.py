"""Speech of text that comes while it is spoken.

`feed`       text as it comes -> segments that later text cannot change
`session`    LiveSession: the verbs of every dialect
`events`     what it tells
`utterance`  the text between two flushes, cut into pieces
`playback`   how much its listener has heard
`voice`      what a session is spoken with, and its way into the engine
`socket`     a WebSocket with bounds: its key, its messages, its one writer
`dialect`    what the dialects have in common
`native`     the dialect of /v1/audio/speech/stream; `units` cuts its sentences
`deepgram`, `elevenlabs`, `dashscope`, `together`, `nari`   those of these vendors
`body`       the body of an HTTP request, line by line

May import: state, http, text, voices, speech, provenance and the root; not routes.
"""
