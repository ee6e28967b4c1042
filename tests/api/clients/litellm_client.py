"""LiteLLM: a whole answer, and a typed error."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import openai

options = {"api_base": sys.argv[1], "api_key": "none", "input": "Hello there, this is a test."}
found: dict[str, object] = {}
for audio_format in ("mp3", "wav"):
    answer = litellm.speech(
        model="openai/tts-1", voice="alloy", response_format=audio_format, **options
    )
    found[audio_format] = len(answer.content)
try:
    litellm.speech(model="openai/gpt-9", voice="alloy", **options)
except openai.NotFoundError as error:
    found["error"] = error.status_code
print(json.dumps(found))
