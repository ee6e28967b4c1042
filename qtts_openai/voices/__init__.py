"""Who speaks: presets, stored voices and consents, reference audio, and the model that fits.

May import: text, decoding, http.callers and the root (settings, schemas, errors);
not speech, not routes.
"""
