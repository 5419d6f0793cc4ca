// Requests to the server that this page came from, with the key if there is one. Knows nothing of what is shown.

const KEY = "trtc-key";

/** The API key; empty if there is none. It lives in this tab alone. */
export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keeps a key, or forgets it if it is empty. */
export function setKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** What the server refused, or could not do. Status 0: it was not reached. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a request; a body makes it a POST. Gives the response, or throws what it refused with. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key()) headers.authorization = `Bearer ${key()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  throw new Refused(response.status, await reason(response));
}

/** What a refusal says. */
async function reason(response) {
  const text = await response.text();
  let said = `The server answered with status ${response.status}.`;
  try {
    said = JSON.parse(text).error.message ?? said;
  } catch {
    // A proxy's own page, perhaps: the status has to do.
  }
  const wait = response.headers.get("retry-after");
  return wait ? `${said} Try again in ${wait} s.` : said;
}

/** The events of a stream, as objects, up to its end. Throws the error that ends a stream early. */
export async function* events(response) {
  for await (const line of lines(response.body)) {
    // Others are comments that keep the connection open, and the empty lines between events.
    if (!line.startsWith("data:")) continue;
    const data = line.slice("data:".length).trim();
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Refused(response.status, event.error.message);
    yield event;
  }
  throw new Refused(0, "The connection ended before the answer did.");
}

/** The lines of a body as they come. */
async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = parts.pop();
      yield* parts;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The connection was lost.");
  } finally {
    // Who leaves early closes the connection, and the server computes no more.
    reader.cancel().catch(() => {});
  }
}
