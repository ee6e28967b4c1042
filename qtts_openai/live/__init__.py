"""Speech of text that comes while it is spoken.

`feed`       text as it comes -> segments that later text cannot change
`session`    LiveSession: the verbs of every dialect
`events`     what it reports: audio, words, ends, failures
`utterance`  the text between two flushes, cut into pieces
`playback`   how much its listener has heard
`voice`      voice, seed and sampling of a session, and how its text gets into the engine
`trails`     signatures and audit entries of what was sent
`socket`     a WebSocket with bounds on messages and time
`dialect`    what the dialects have in common
`native`     the dialect of /v1/audio/speech/stream; `units` cuts its sentences
`deepgram`, `elevenlabs`, `dashscope`, `together`, `nari`   the dialects of these vendors
`body`       text that comes line by line in the body of an HTTP request

May import: state, http, text, voices, speech, provenance and the root; not routes.
"""
