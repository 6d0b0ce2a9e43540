// npm's openai: what services do with it, and what it shows of what went wrong.
import assert from 'node:assert/strict';
import OpenAI, { toFile } from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { z } from 'zod';
import { done, tried } from './tried.mjs';

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const model = 'gpt-4o-mini';
const messages = [{ role: 'user', content: 'What is the weather in Paris?' }];
const place = z.object({ city: z.string(), unit: z.enum(['celsius', 'kelvin']) });
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};

await tried('models', async () => {
  const names = [];
  for await (const found of client.models.list()) names.push(found.id);
  assert(names.includes(model));
});

await tried('chat', async () => {
  const { data, response, request_id } = await client.chat.completions.create({ model, messages }).withResponse();
  assert.match(data.choices[0].message.content, /^Simulated answer/);
  assert.equal(request_id, response.headers.get('x-request-id'));
  assert(request_id);
});

await tried('stream', async () => {
  const stream = await client.chat.completions.create({
    model, messages, stream: true, stream_options: { include_usage: true },
  });
  let said = '';
  let usage;
  for await (const chunk of stream) {
    said += chunk.choices[0]?.delta?.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.match(said, /^Simulated answer/);
  assert(usage.completion_tokens > 0);
});

await tried('tools', async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    model,
    messages,
    tools: [{
      type: 'function',
      function: {
        name: 'get_weather',
        parameters,
        parse: JSON.parse,
        function: ({ city }) => { asked.push(city); return '21 degrees'; },
      },
    }],
  });
  assert.match(await runner.finalContent(), /^Simulated answer to: 21 degrees/);
  assert.deepEqual(asked, ['simulated city']);
});

await tried('tools, streamed', async () => {
  const stream = client.chat.completions.stream({
    model, messages, tools: [{ type: 'function', function: { name: 'get_weather', parameters } }],
  });
  const { choices: [{ message, finish_reason }] } = await stream.finalChatCompletion();
  assert.equal(finish_reason, 'tool_calls');
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: 'simulated city' });
});

await tried('structured', async () => {
  const chat = await client.chat.completions.parse({
    model, messages, response_format: zodResponseFormat(place, 'place'),
  });
  assert.equal(chat.choices[0].message.parsed.unit, 'celsius');
});

await tried('responses', async () => {
  const response = await client.responses.create({ model, input: 'Hello' });
  assert.match(response.output_text, /^Simulated answer/);
  const again = await client.responses.retrieve(response.id);
  assert.equal(again.id, response.id);
});

await tried('responses, streamed', async () => {
  const stream = client.responses.stream({ model, input: 'Hello', text: { format: zodTextFormat(place, 'place') } });
  const kinds = new Set();
  for await (const event of stream) kinds.add(event.type);
  assert.equal((await stream.finalResponse()).output_parsed.unit, 'celsius');
  assert(kinds.has('response.output_text.delta'));
});

await tried('responses over a WebSocket', async () => {
  const socket = new ResponsesWS(client);
  socket.send({ type: 'response.create', model, input: 'Hello', store: false });
  let used = 0;
  for await (const event of socket) {
    if (event.type === 'error') throw event.error;
    if (event.type === 'message' && event.message.type === 'response.completed') {
      used = event.message.response.usage.total_tokens;
      break;
    }
  }
  socket.close();
  assert(used > 0);
});

await tried('embeddings', async () => {
  const made = await client.embeddings.create({ model: 'text-embedding-3-small', input: ['a', 'b'], dimensions: 16 });
  assert.deepEqual(made.data.map((one) => one.embedding.length), [16, 16]);
});

await tried('audio', async () => {
  const speech = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hi', response_format: 'wav' });
  const sound = Buffer.from(await speech.arrayBuffer());
  assert.equal(sound.subarray(0, 4).toString(), 'RIFF');
  const heard = await client.audio.transcriptions.create({ model: 'whisper-1', file: await toFile(sound, 'hi.wav') });
  assert(heard.text);
});

await tried('files', async () => {
  const text = 'one line\n'.repeat(10_000);
  const file = await client.files.create({ file: await toFile(Buffer.from(text), 'ä "quoted".txt'), purpose: 'assistants' });
  assert.equal(file.bytes, text.length);
  assert.equal(await (await client.files.content(file.id)).text(), text);
  const listed = [];
  for await (const one of client.files.list()) listed.push(one.id);
  assert(listed.includes(file.id));
  assert.equal((await client.files.delete(file.id)).deleted, true);
});

await tried('a refusal shows its request id', async () => {
  const wrong = new OpenAI({ apiKey: 'sk-wrong', maxRetries: 0 });
  const error = await wrong.models.list().then(() => assert.fail('was accepted'), (refused) => refused);
  assert(error instanceof OpenAI.AuthenticationError, error.stack);
  assert(error.requestID, 'no request id');
  assert.equal(error.code, 'invalid_api_key');
});

await tried('an error of the upstream is what it was', async () => {
  const headers = { 'x-simulate': 'status=429; retry-after=1' };
  const error = await client.chat.completions.create({ model, messages }, { headers }).catch((refused) => refused);
  assert(error instanceof OpenAI.RateLimitError, error.stack);
  assert(error.requestID, 'no request id');
});

await tried('retries', async () => {
  const began = Date.now();
  const headers = { 'x-simulate': 'status=503; headers=retry-after-ms:50' };
  const error = await client.chat.completions.create({ model, messages }, { headers, maxRetries: 2 }).catch((e) => e);
  assert.equal(error.status, 503);
  assert(Date.now() - began >= 100, 'did not wait as it was told');
});

await tried('abort', async () => {
  const controller = new AbortController();
  const stream = await client.chat.completions.create(
    { model, messages, stream: true },
    { signal: controller.signal, headers: { 'x-simulate': 'pace=0.2' } },
  );
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    if (chunks === 2) controller.abort();
  }
  assert.equal(chunks, 2);
  assert.match((await client.chat.completions.create({ model, messages })).choices[0].message.content, /^Simulated/);
});

await tried('a stream that breaks off is an error', async () => {
  const headers = { 'x-simulate': 'cut=900' };
  const stream = await client.chat.completions.create({ model, messages, stream: true }, { headers });
  await assert.rejects(async () => { for await (const _ of stream); });
});

done();
