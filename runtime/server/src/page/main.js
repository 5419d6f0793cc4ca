// Ties the page together: the key, the models, and what is said of the server's state.

import { ask, key, setKey } from "./api.js";
import { makeChat } from "./chat.js";
import { makeDashboard } from "./dashboard.js";
import { element } from "./chart.js";

const [models, access, keyForm, keyField, state, mostTokens] = [
  "model", "access", "key-form", "key", "state", "max-tokens",
].map((id) => document.getElementById(id));

/** How long to wait before a server that is not there is asked for its models again, milliseconds. */
const AGAIN = 3000;

const model = () => models.value;

/** Says a word about the server; the same word is not said twice, for it would be spoken twice. */
function tell(text) {
  if (state.textContent !== text) state.textContent = text;
}

/** Shows why something was refused, and the field for the key if that is what is missing. */
function refused(error) {
  if (error.status === 401) {
    access.open = true;
    tell(key() ? "The server does not take this key." : "This server asks for an API key.");
  } else {
    tell(error.message);
  }
}

const STATES = { live: "Live", paused: "Paused" };
const dashboard = makeDashboard(model, (how) => (STATES[how] ? tell(STATES[how]) : refused(how)));
makeChat(model, refused);

/** Fills the choice of models. */
async function load() {
  let list;
  try {
    list = (await (await ask("v1/models")).json()).data;
  } catch (error) {
    refused(error);
    if (error.status !== 401) setTimeout(load, AGAIN);
    return;
  }
  const before = model();
  models.replaceChildren(
    ...list.map(({ id, max_model_len: longest }) => {
      const option = element("option", "", id);
      option.value = id;
      option.dataset.longest = longest;
      return option;
    }),
  );
  if (list.some(({ id }) => id === before)) models.value = before;
  chosen();
}

/** Another model is shown, and its bound holds. */
function chosen() {
  mostTokens.max = models.selectedOptions[0]?.dataset.longest ?? "";
  dashboard.reset();
  dashboard.start();
}

models.addEventListener("change", chosen);
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(keyField.value.trim());
  load();
});
keyField.value = key();
load();
