// A conversation: what is asked, the answer as it comes, and what it took. Texts of a model are only ever texts here.

import { ask, events, Refused } from "./api.js";
import { element } from "./chart.js";

const [log, form, input, temperature, mostTokens, send, stop, clear] = [
  "log", "chat-form", "input", "temperature", "max-tokens", "send", "stop", "clear",
].map((id) => document.getElementById(id));

/** How near to its end the log counts as being there, pixels: it then follows the answer. */
const NEAR = 48;

/** What the server says of a model that cannot chat. */
const NO_TEMPLATE = /no chat template/;

/** Makes the chat work. `model` gives the name of the model to ask, `refused` is told of refusals. */
export function makeChat(model, refused) {
  /** What was said so far, as the API has it. */
  let messages = [];
  /** Ends the answer that is under way; null if there is none. */
  let running = null;
  /** Models that only continue a text. */
  const continuing = new Set();

  function busy(controller) {
    const focused = document.activeElement;
    running = controller;
    send.disabled = clear.disabled = controller !== null;
    stop.disabled = controller === null;
    // A button that is switched off loses the focus: who pressed it is taken to what comes next.
    if (focused === send && controller) stop.focus();
    if (focused === stop && !controller) input.focus();
    // A screen reader speaks the answer once it is whole, and not each token.
    log.setAttribute("aria-busy", String(controller !== null));
  }

  /** Adds a message to the log; gives its text, to be continued, and its note. */
  function add(role, name, text) {
    const article = element("article", role);
    article.append(element("h3", "", name));
    const said = article.appendChild(element("p", "said"));
    const node = said.appendChild(document.createTextNode(text));
    const note = article.appendChild(element("p", "note"));
    log.append(article);
    log.scrollTop = log.scrollHeight;
    return { article, node, note };
  }

  /** Changes the log, which stays at its end if it was there. */
  function follow(change) {
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    change();
    if (follows) log.scrollTop = log.scrollHeight;
  }

  /** The body of a request for an answer to what was said. */
  function body(name, chats) {
    const number = (field) => (field.value === "" ? undefined : Number(field.value));
    return {
      model: name,
      ...(chats ? { messages } : { prompt: messages.at(-1).content }),
      temperature: number(temperature),
      max_tokens: number(mostTokens),
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  /** Asks for an answer: a chat, or a continued text where the model has no template for chats. */
  async function begin(name, signal) {
    if (!continuing.has(name)) {
      try {
        return await ask("v1/chat/completions", { body: body(name, true), signal });
      } catch (error) {
        if (error.status !== 400 || !NO_TEMPLATE.test(error.message)) throw error;
        continuing.add(name);
      }
    }
    return ask("v1/completions", { body: body(name, false), signal });
  }

  /** Shows an answer as it comes; gives why it ended and what it took. */
  async function receive(response, node) {
    let [finish, usage] = [null, null];
    for await (const event of events(response)) {
      const choice = event.choices[0];
      const text = choice?.delta?.content ?? choice?.text ?? "";
      if (text) follow(() => node.appendData(text));
      finish = choice?.finish_reason ?? finish;
      usage = event.usage ?? usage;
    }
    return { finish, usage };
  }

  async function answer(text) {
    const name = model();
    add("user", "You", text);
    messages.push({ role: "user", content: text });
    const shown = add("assistant", name, "");
    const controller = new AbortController();
    busy(controller);
    let notes = [];
    try {
      const response = await begin(name, controller.signal);
      const { finish, usage } = await receive(response, shown.node);
      notes = took(finish, usage);
    } catch (error) {
      if (error.name === "AbortError") {
        notes = ["Stopped"];
      } else {
        notes = [error instanceof Refused ? error.message : `This page failed: ${error.message}`];
        shown.note.className = "note error";
        refused(error);
      }
    }
    if (continuing.has(name)) notes.push("this model has no chat template, it continues your text alone");
    follow(() => (shown.note.textContent = notes.join(", ")));
    if (shown.node.data) {
      messages.push({ role: "assistant", content: shown.node.data });
    } else {
      // Nothing was said: the question stands where it was, to be asked again.
      messages.pop();
      if (!input.value) input.value = text;
    }
    busy(null);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (running || !text) return;
    input.value = "";
    answer(text);
  });
  input.addEventListener("keydown", (event) => {
    // Enter that ends the input of a character in another script is not ours.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) form.requestSubmit();
  });
  const end = () => running?.abort();
  stop.addEventListener("click", end);
  form.addEventListener("keydown", (event) => event.key === "Escape" && end());
  log.addEventListener("keydown", (event) => event.key === "Escape" && end());
  clear.addEventListener("click", () => {
    messages = [];
    log.replaceChildren();
    input.focus();
  });
}

/** What is said below an answer. */
function took(finish, usage) {
  const notes = [];
  if (finish === "length") notes.push("Ended at the most tokens allowed");
  if (!usage) return notes;
  const { completion_tokens: tokens, timings } = usage;
  notes.push(`${tokens} tokens`);
  if (timings?.ttft_ms) {
    notes.push(`the first after ${timings.ttft_ms.toFixed(0)} ms`);
    const seconds = (timings.total_ms - timings.ttft_ms) / 1000;
    if (tokens > 1 && seconds > 0) notes.push(`then ${((tokens - 1) / seconds).toFixed(1)} a second`);
  }
  return notes;
}
