// openai for Node: whole, streamed, SSE as text, errors, models, voices.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const fields = { model: "tts-1", voice: "alloy", input: "Hello there, this is a test." };
const found = {};

found.mp3 = (await (await client.audio.speech.create(fields)).arrayBuffer()).byteLength;
let bytes = 0, reads = 0;
const pcm = await client.audio.speech.create({ ...fields, response_format: "pcm" });
for await (const chunk of pcm.body) { bytes += chunk.length; reads += 1; }
Object.assign(found, { pcm: bytes, reads });
const events = await client.audio.speech.create({ ...fields, stream_format: "sse" });
found.done = (await events.text()).includes("speech.audio.done");
try {
  await client.audio.speech.create({ ...fields, voice: "nobody" });
} catch (error) {
  Object.assign(found, { status: error.status, param: error.param, id: Boolean(error.requestID) });
}
found.models = (await client.models.list()).data.map((model) => model.id);
const voice = await client.post("/audio/voices", { body: { name: "node", type: "prompt", prompt: "A calm man." } });
found.deleted = (await client.delete(`/audio/voices/${voice.id}`)).deleted;
console.log(JSON.stringify(found));
