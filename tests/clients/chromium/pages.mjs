// Pages in Chromium: one of the origin that the gateway lets in, and one of another. Both have npm's openai, as it is.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { done, tried } from './tried.mjs';

const { OPENAI_BASE_URL, OPENAI_API_KEY, TLS_BASE_URL, TLS_API_KEY, PAGE_ORIGIN, CHROMIUM } = process.env;
const folder = path.resolve('node_modules');
const server = http.createServer(async (request, response) => {
  const file = path.join(folder, path.normalize(new URL(request.url, PAGE_ORIGIN).pathname));
  try {
    const text = request.url === '/' ? '<!doctype html><title>a page</title>' : await readFile(file);
    response.setHeader('content-type', request.url === '/' ? 'text/html' : 'text/javascript');
    response.end(text);
  } catch {
    response.writeHead(404).end();
  }
});
const port = Number(new URL(PAGE_ORIGIN).port);
await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: [
    ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
    ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
  ],
});
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const gateway = { baseURL: OPENAI_BASE_URL, apiKey: OPENAI_API_KEY };
const byTls = { baseURL: TLS_BASE_URL, apiKey: TLS_API_KEY };

async function on(origin) {
  const page = await context.newPage();
  await page.goto(origin);
  return page;
}

const page = await on(PAGE_ORIGIN);

async function sdk(what, settings = gateway, where = page) {
  return where.evaluate(
    async ([code, options]) => {
      const { default: OpenAI } = await import('/openai/index.mjs');
      const client = new OpenAI({ ...options, maxRetries: 0, dangerouslyAllowBrowser: true });
      return new (Object.getPrototypeOf(async () => {}).constructor)('client', 'OpenAI', code)(client, OpenAI);
    },
    [what, settings],
  );
}

const CHAT = "model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Hello' }]";

await tried('chat, and its id', async () => {
  const [said, id] = await sdk(`
    const { data, response } = await client.chat.completions.create({ ${CHAT} }).withResponse();
    return [data.choices[0].message.content, response.headers.get('x-gateway-request-id')];`);
  assert.match(said, /^Simulated answer/);
  assert.match(id, /^req_gw_/);
});

await tried('stream', async () => {
  const said = await sdk(`
    let said = '';
    for await (const chunk of await client.chat.completions.create({ ${CHAT}, stream: true }))
      said += chunk.choices[0]?.delta?.content ?? '';
    return said;`);
  assert.match(said, /^Simulated answer/);
});

await tried('upload and delete', async () => {
  assert.equal(await sdk(`
    const file = await client.files.create({ file: new File(['a'.repeat(100_000)], 'a.txt'), purpose: 'assistants' });
    await client.files.delete(file.id);
    return file.bytes;`), 100_000);
});

await tried('a refusal is shown, with its id', async () => {
  const [status, id, code] = await sdk(
    'return client.models.list().catch((error) => [error.status, error.requestID, error.code]);',
    { ...gateway, apiKey: 'sk-wrong' },
  );
  assert.deepEqual([status, code], [401, 'invalid_api_key']);
  assert(id, 'no request id');
});

await tried('an unknown path is shown', async () => {
  const [status, message] = await page.evaluate(async ([url, key]) => {
    const answer = await fetch(url, { headers: { authorization: `Bearer ${key}` } });
    return [answer.status, (await answer.json()).error.message];
  }, [OPENAI_BASE_URL.replace('/v1', '/nowhere'), OPENAI_API_KEY]);
  assert.equal(status, 404);
  assert(message);
});

await tried('by https', async () => {
  assert.match(await sdk(`return (await client.chat.completions.create({ ${CHAT} })).choices[0].message.content;`, byTls),
    /^Simulated answer/);
});

await tried('realtime by wss', async () => {
  const kind = await page.evaluate(async ([base, key]) => {
    const socket = new WebSocket(`${base.replace('https', 'wss')}/realtime?model=gpt-realtime`,
      ['realtime', `openai-insecure-api-key.${key}`]);
    return new Promise((resolve) => {
      socket.onmessage = ({ data }) => { resolve(JSON.parse(data).type); socket.close(); };
      socket.onerror = () => resolve('an error');
    });
  }, [TLS_BASE_URL, TLS_API_KEY]);
  assert.equal(kind, 'session.created');
});

await tried("the SDK's realtime", async () => {
  const kind = await page.evaluate(async (options) => {
    const { default: OpenAI } = await import('/openai/index.mjs');
    const { OpenAIRealtimeWebSocket } = await import('/openai/realtime/websocket.mjs');
    const client = new OpenAI({ ...options, dangerouslyAllowBrowser: true });
    const socket = new OpenAIRealtimeWebSocket({ model: 'gpt-realtime', dangerouslyAllowBrowser: true }, client);
    return new Promise((resolve) => {
      socket.on('event', (event) => { resolve(event.type); socket.close(); });
      socket.on('error', (error) => resolve(String(error)));
    });
  }, byTls);
  assert.equal(kind, 'session.created');
});

await tried('a page of another origin sees nothing', async () => {
  const elsewhere = await on(`http://127.0.0.1:${port}`);
  const refused = await sdk(
    "return client.models.list().then(() => 'was let in', (error) => error.constructor.name);", gateway, elsewhere);
  assert.match(refused, /Connection/);
});

await browser.close();
server.close();
done();
