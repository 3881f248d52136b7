// The official Node SDK as a client of the emulator: what its users do, and what they do wrong.
//
// OPENAI_BASE_URL and OPENAI_API_KEY lead to the server, MOUNT is a mount of it, PROFILE says which server it is, SDK is the
// directory that has the package in node_modules. The server knows the API file `file-abc123`, and its admin route is on.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

const require = createRequire(path.join(process.env.SDK, 'any.js'));
const OpenAI = require('openai');
const { toFile } = OpenAI;

const openaiProfile = process.env.PROFILE === 'openai';
const client = new OpenAI({ maxRetries: 0 });
const { containers } = client;
const { files } = containers;

const content = async (container, file) =>
  Buffer.from(await (await files.content.retrieve(file.id, { container_id: container.id })).arrayBuffer());

const all = async (list) => {
  const items = [];
  for await (const item of list) items.push(item);
  return items;
};

const eventually = async (what, done) => {
  const deadline = Date.now() + 20_000;
  while (!done()) {
    assert(Date.now() < deadline, `in vain: ${what}`);
    await new Promise((after) => setTimeout(after, 20));
  }
};

const refused = async (kind, call, { says = '', code, param } = {}) =>
  assert.rejects(call, (error) => {
    assert(error instanceof kind, `${error}`);
    assert(error.message.includes(says), error.message);
    assert.match(error.requestID, /^req_/);
    if (code) assert.deepEqual([error.code, error.param], [code, param]);
    assert.equal(error.type, 'invalid_request_error');
    return true;
  });

async function aContainerIsCreatedWithEveryParameter() {
  const made = await containers.create({
    name: 'every parameter',
    expires_after: { anchor: 'last_active_at', minutes: 10 },
    file_ids: ['file-abc123'],
    memory_limit: '16g',
    network_policy: {
      type: 'allowlist',
      allowed_domains: ['example.org'],
      domain_secrets: [{ domain: 'example.org', name: 'TOKEN', value: 'hush-hush' }],
    },
    skills: [
      { type: 'skill_reference', skill_id: 'skill_1', version: 'latest' },
      {
        type: 'inline',
        name: 'plots',
        description: 'draws',
        source: { type: 'base64', media_type: 'application/zip', data: 'UEsFBg==' },
      },
    ],
  });
  assert.match(made.id, /^cntr_/);
  assert.deepEqual([made.name, made.memory_limit, made.status], ['every parameter', '16g', 'running']);
  assert.deepEqual(made.expires_after, { anchor: 'last_active_at', minutes: 10 });
  assert.deepEqual(made.network_policy, { type: 'allowlist', allowed_domains: ['example.org'] });
  const again = await containers.retrieve(made.id);
  assert.ok(again.last_active_at >= made.last_active_at, 'being looked at is a use');
  assert.deepEqual({ ...again, last_active_at: made.last_active_at }, made);
  const [attached] = await all(files.list(made.id));
  assert.equal(attached.path, '/mnt/data/file-abc123-attached.txt');
  assert.equal((await content(made, attached)).toString(), 'of the Files API');
  await containers.delete(made.id);
  await refused(OpenAI.NotFoundError, () => containers.retrieve(made.id), { says: made.id });

  const quiet = await containers.create({ name: 'quiet', network_policy: { type: 'disabled' } });
  assert.deepEqual([quiet.network_policy.type, quiet.memory_limit], ['disabled', '1g']);
  await containers.delete(quiet.id);
}

async function filesGoUpAndComeDown() {
  const container = await containers.create({ name: 'up and down' });
  const everyByte = Buffer.concat(Array(4099).fill(Buffer.from([...Array(256).keys()])));
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'sdk-'));
  const onDisk = path.join(directory, 'on disk.bin');
  fs.writeFileSync(onDisk, everyByte);
  const named = 'say "hi" – ünï 日本.txt';
  const uploads = {
    'buffer.bin': await toFile(everyByte, 'buffer.bin'),
    'on disk.bin': fs.createReadStream(onDisk),
    [named]: new File([everyByte], named),
    empty: await toFile(Buffer.alloc(0), 'empty'),
  };
  let file;
  for (const [name, upload] of Object.entries(uploads)) {
    const bytes = name === 'empty' ? Buffer.alloc(0) : everyByte;
    file = await files.create(container.id, { file: upload });
    assert.deepEqual([file.bytes, file.source, file.object], [bytes.length, 'user', 'container.file']);
    const shown = file.path.slice('/mnt/data/'.length);
    assert.equal(openaiProfile ? shown.replace(/^[0-9a-f]{32}-/, '') : shown, name);
    assert.deepEqual(await files.retrieve(file.id, { container_id: container.id }), file);
    assert(bytes.equals(await content(container, file)), name);
  }
  fs.rmSync(directory, { recursive: true });
  const attached = await files.create(container.id, { file_id: 'file-abc123' });
  assert.equal(attached.path, '/mnt/data/file-abc123-attached.txt');
  await files.delete(file.id, { container_id: container.id });
  const says = `File ${file.id} not found on container ${container.id}.`;
  await refused(OpenAI.NotFoundError, () => content(container, file), { says });
  await refused(OpenAI.NotFoundError, () => files.retrieve(file.id, { container_id: container.id }), { says });
  await refused(OpenAI.NotFoundError, () => files.delete(file.id, { container_id: container.id }), { says });
  await containers.delete(container.id);
  await refused(OpenAI.NotFoundError, () => files.list(container.id), { says: container.id });
}

async function listsArePagedInBothOrders() {
  const container = await containers.create({ name: 'pages' });
  const made = [];
  for (let n = 0; n < 23; n++) {
    made.push((await files.create(container.id, { file: await toFile(Buffer.from(`${n}`), `${n}.txt`) })).id);
  }
  const backwards = [...made].reverse();
  for (const [order, limit] of [['asc', 7], ['desc', 7], ['asc', 23], ['desc', 100]]) {
    const listed = (await all(files.list(container.id, { order, limit }))).map((file) => file.id);
    assert.deepEqual(listed, order === 'asc' ? made : backwards, `${order} ${limit}`);
  }
  const first = await files.list(container.id);
  assert.equal(first.data.length, 20);
  assert(first.hasNextPage());
  const rest = await first.getNextPage();
  assert.deepEqual(rest.data.map((file) => file.id), backwards.slice(20));
  assert(!rest.hasNextPage());

  const ids = [];
  for (const name of ['twin', 'other', 'twin']) ids.push((await containers.create({ name })).id);
  assert.deepEqual((await all(containers.list({ order: 'asc', limit: 1 }))).map((c) => c.id).slice(-3), ids);
  assert.deepEqual((await all(containers.list({ name: 'twin' }))).map((c) => c.id), [ids[2], ids[0]]);
  for (const id of [...ids, container.id]) await containers.delete(id);
}

async function whatIsWrongIsTold() {
  const bad = OpenAI.BadRequestError;
  const create = (rest) => () => containers.create({ name: 'n', ...rest });
  const expires_after = { anchor: 'last_active_at', minutes: 21 };
  await refused(bad, create({ expires_after }), { code: 'integer_above_max_value', param: 'expires_after.minutes' });
  await refused(bad, create({ memory_limit: '2g' }), { code: 'invalid_value', param: 'memory_limit' });
  await refused(bad, create({ network_policy: { type: 'open' } }), { code: 'invalid_value', param: 'network_policy.type' });
  await refused(bad, create({ colour: 'red' }), { code: 'unknown_parameter', param: 'colour' });
  await refused(bad, create({ name: undefined }), { code: 'missing_required_parameter', param: 'name' });
  await refused(bad, () => containers.list({ limit: 101 }), { code: 'integer_above_max_value', param: 'limit' });
  await refused(bad, () => containers.list({ order: 'up' }), { code: 'invalid_value', param: 'order' });
  await refused(OpenAI.NotFoundError, create({ file_ids: ['file-none'] }), { says: 'file-none' });
  await refused(OpenAI.NotFoundError, () => containers.delete('cntr_none'), { says: 'cntr_none' });
  await refused(OpenAI.NotFoundError, () => files.create('cntr_none', { file_id: 'file-abc123' }), { says: 'cntr_none' });
  const stranger = new OpenAI({ apiKey: 'sk-test-wrong-0123456789abcdef', maxRetries: 0 });
  await refused(OpenAI.AuthenticationError, () => stranger.containers.list(), { says: 'Incorrect API key' });
}

async function aServerThatIsBusyIsAskedAgain() {
  const fault = { type: 'status', code: 429, headers: { 'retry-after-ms': '5' } };
  await fetch(`${client.baseURL.replace(/\/v1$/, '')}/_admin/faults`, {
    method: 'POST',
    headers: { authorization: `Bearer ${client.apiKey}` },
    body: JSON.stringify({ kind: 'list_containers', times: 2, fault }),
  });
  await assert.rejects(containers.list(), OpenAI.RateLimitError);
  await new OpenAI({ maxRetries: 2 }).containers.list();
}

async function theMountAndTheSdkSeeEachOthersFiles() {
  const container = await containers.create({ name: 'node-and-mount' });
  const there = path.join(process.env.MOUNT, container.name);
  await eventually('the mount shows the container', () => fs.existsSync(there));
  const bytes = Buffer.alloc(300_000, 'node');
  await files.create(container.id, { file: await toFile(bytes, 'from sdk.bin') });
  const inMount = path.join(there, 'from sdk.bin');
  await eventually('the mount shows the upload', () => fs.existsSync(inMount));
  assert(bytes.equals(await fs.promises.readFile(inMount)));
  await fs.promises.writeFile(path.join(there, 'from mount.txt'), 'written there');
  const mine = (await all(files.list(container.id))).find((file) => file.path.endsWith('from mount.txt'));
  assert.equal((await content(container, mine)).toString(), 'written there');
  await files.delete(mine.id, { container_id: container.id });
  await eventually('the mount shows that it is gone', () => !fs.existsSync(path.join(there, 'from mount.txt')));
  await fs.promises.unlink(inMount);
  assert.deepEqual((await files.list(container.id)).data, []);
  await containers.delete(container.id);
  await eventually('the mount shows that the container is gone', () => !fs.existsSync(there));
}

for (const test of [
  aContainerIsCreatedWithEveryParameter,
  filesGoUpAndComeDown,
  listsArePagedInBothOrders,
  whatIsWrongIsTold,
  aServerThatIsBusyIsAskedAgain,
  theMountAndTheSdkSeeEachOthersFiles,
]) {
  await test();
}
assert.deepEqual((await containers.list()).data, [], 'every container was deleted');
console.log(`openai ${require('openai/version').VERSION} for Node: all is well`);
