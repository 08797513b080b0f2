// Vercel's AI SDK and openai-node against a server: node.mjs URL EXPECTED. Exits with 1 where an answer differs.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const [url, expected] = process.argv.slice(2);
const system = "You answer briefly.";
const prompt = "What is the capital of France?";
const baseURL = `${url}/v1`;
const settings = { system, prompt, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

const compatible = createOpenAICompatible({ name: "memfirst", baseURL, includeUsage: true });
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = { compatible: compatible("tested"), chat: openai.chat("tested"), responses: openai.responses("tested") };
for (const [name, model] of Object.entries(models)) {
  const whole = await generateText({ model, ...settings });
  assert.equal(whole.text, expected, name);
  assert.equal(whole.usage.outputTokens, 24, name);
  assert.equal(whole.finishReason, "length", name);
  const stream = streamText({ model, ...settings, onError: ({ error }) => { throw error; } });
  let said = "";
  for await (const part of stream.textStream) said += part;
  assert.equal(said, expected, name);
  assert.equal((await stream.usage).outputTokens, 24, name);
  console.log(`AI SDK, ${name}`);
}

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "system", content: system }, { role: "user", content: prompt }];
const asked = { model: "tested", messages, temperature: 0, max_tokens: 24 };
const chat = await client.chat.completions.create(asked);
assert.equal(chat.choices[0].message.content, expected);
const runner = client.chat.completions.stream(asked);
assert.equal((await runner.finalChatCompletion()).choices[0].message.content, expected);
console.log("openai-node, chat");

const input = { model: "tested", instructions: system, input: prompt, temperature: 0 };
const response = await client.responses.create({ ...input, max_output_tokens: 24 });
assert.equal(response.output_text, expected);
assert.equal(response.status, "incomplete");
const events = client.responses.stream({ ...input, max_output_tokens: 400 });
let text = "";
for await (const event of events) if (event.type === "response.output_text.delta") text += event.delta;
const final = await events.finalResponse();
assert.equal(final.output_text, text);
assert.ok(text.startsWith(expected));
console.log("openai-node, responses");

await assert.rejects(client.responses.create({ ...input, previous_response_id: "resp_1" }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ ...asked, model: "other" }), OpenAI.NotFoundError);
console.log("openai-node, errors");
