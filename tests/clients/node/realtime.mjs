// npm's openai by TLS: its realtime sessions are opened by wss: alone. Node is told of the certificate when it starts.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { done, tried } from './tried.mjs';

const client = new OpenAI({ baseURL: process.env.TLS_BASE_URL, apiKey: process.env.TLS_API_KEY, maxRetries: 0 });
const model = 'gpt-4o-mini';

function next(socket, kind) {
  return new Promise((resolve, reject) => {
    socket.once(kind, resolve);
    socket.once('error', reject);
  });
}

await tried('chat by https', async () => {
  const chat = await client.chat.completions.create({ model, messages: [{ role: 'user', content: 'Hello' }] });
  assert.match(chat.choices[0].message.content, /^Simulated answer/);
});

await tried('stream by https', async () => {
  const stream = await client.chat.completions.create({
    model, messages: [{ role: 'user', content: 'Hello' }], stream: true,
  });
  let said = '';
  for await (const chunk of stream) said += chunk.choices[0]?.delta?.content ?? '';
  assert.match(said, /^Simulated answer/);
});

await tried('a large upload by https', async () => {
  const file = new File(['one line\n'.repeat(500_000)], 'large.txt');
  const kept = await client.files.create({ file, purpose: 'assistants' });
  assert.equal(kept.bytes, 4_500_000);
  assert.equal((await (await client.files.content(kept.id)).text()).length, 4_500_000);
});

await tried('realtime by wss', async () => {
  const socket = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, client);
  assert.equal(socket.url.protocol, 'wss:');
  await next(socket, 'session.created');
  socket.send({
    type: 'conversation.item.create',
    item: { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'Hello' }] },
  });
  socket.send({ type: 'response.create' });
  const { response } = await next(socket, 'response.done');
  assert.equal(response.status, 'completed');
  const closed = new Promise((resolve) => socket.socket.on('close', resolve));
  socket.close();
  assert.equal(await closed, 1000);
});

await tried('responses by wss', async () => {
  const socket = new ResponsesWS(client);
  socket.send({ type: 'response.create', model, input: 'Hello' });
  const { response } = await next(socket, 'response.completed');
  assert.equal(response.status, 'completed');
  socket.close();
});

await tried('a wrong credential is refused in the handshake', async () => {
  const wrong = new OpenAI({ baseURL: process.env.TLS_BASE_URL, apiKey: 'sk-wrong' });
  const socket = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, wrong);
  const error = await next(socket, 'session.created').then(() => assert.fail('was let in'), (refused) => refused);
  assert.match(String(error.message), /401/);
});

done();
