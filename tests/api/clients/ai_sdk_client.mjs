// The Vercel AI SDK: generateSpeech, and its error.
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_generateSpeech as generateSpeech } from "ai";

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: "none" });
const speak = (options) =>
  generateSpeech({ model: openai.speech("tts-1"), text: "Hello there.", maxRetries: 0, ...options });
const found = {};

for (const outputFormat of ["mp3", "wav", "flac"]) {
  const { audio } = await speak({ voice: "alloy", outputFormat, speed: 1.5, instructions: "Calm." });
  found[outputFormat] = { bytes: audio.uint8Array.length, type: audio.mediaType };
}
try {
  await speak({ voice: "nobody" });
} catch (error) {
  Object.assign(found, { status: error.statusCode, retry: error.isRetryable, message: error.message });
}
console.log(JSON.stringify(found));
