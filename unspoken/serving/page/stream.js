// The server's own frames, by fetch: a key travels in a header, never in an address.

const LOST = "The connection to the server was lost before the answer was there.";

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }

  // Whether nobody has answered, or nobody to the end.
  get lost() {
    return this.message === LOST;
  }
}

export async function models(key) {
  const response = await sent("v1/models", key, {});
  return (await response.json()).data;
}

// What happens in a run, one event after the other. Throws a Failure, also if the end never comes.
export async function* asked(body, key, signal) {
  const more = { method: "POST", body: JSON.stringify(body), signal };
  const response = await sent("v1/chat/completions", key, more);
  for await (const frame of frames(response.body.getReader(), signal)) {
    if (frame === "[DONE]") return;
    const told = JSON.parse(frame);
    if (told.error) throw new Failure(told.error.message);
    yield* events(told);
  }
  throw new Failure(LOST);
}

// The runs that others have asked, and that are not over.
export async function others(key) {
  const response = await sent("v1/runs", key, {});
  return (await response.json()).data.filter((run) => !run.over);
}

// What happens in a run that somebody else has asked: first a snapshot, then one event after the
// other. Throws a Failure, also if the end never comes.
export async function* followed(id, key, signal) {
  const response = await sent(`v1/runs/${encodeURIComponent(id)}`, key, { signal });
  for await (const frame of frames(response.body.getReader(), signal)) {
    if (frame === "[DONE]") return;
    yield JSON.parse(frame);
  }
  throw new Failure(LOST);
}

async function sent(path, key, more) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await unless(more.signal, () => fetch(path, { headers, ...more }));
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Failure(told?.error?.message ?? `The server says ${response.status}.`, response.status);
}

async function unless(signal, wait) {
  try {
    return await wait();
  } catch {
    throw new Failure(signal?.aborted ? "You stopped this run." : LOST);
  }
}

async function* frames(reader, signal) {
  const decoder = new TextDecoder();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await unless(signal, () => reader.read());
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function* events(told) {
  const choice = told.choices?.[0];
  if (told.unspoken) yield told.unspoken;
  if (choice?.delta.content) yield { type: "answer", words: choice.delta.content };
  if (choice?.finish_reason) yield { type: "finish", reason: choice.finish_reason };
}
