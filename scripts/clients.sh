#!/usr/bin/env bash
# Runs the suites of OpenAI's own clients (tests/clients) against a server with a small real model on this machine's CPU.
# Clients are installed once, in the versions that are pinned there, under ~/.cache/trtc/clients.
# usage: clients.sh TRTC        with TRTC_SKIP_CLIENTS=1 it runs nothing, with TRTC_SKIP_CLIENTS=node Python's suite alone, and says so
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${TRTC_SKIP_CLIENTS:-}" = 1 ]; then
  echo 'clients: TRTC_SKIP_CLIENTS is 1, the suites of the clients are not run'
  exit 0
fi
trtc="${1:?usage: clients.sh TRTC, such as target/debug/trtc}"
model="${TRTC_MODELS:-$HOME/.cache/trtc/models}/qwen2.5-coder-0.5b-q4.gguf"
cache="$HOME/.cache/trtc/clients"
work=target/clients
tools=(python3 node npm)
[ "${TRTC_SKIP_CLIENTS:-}" != node ] || tools=(python3)
for tool in "${tools[@]}"; do
  command -v "$tool" >/dev/null || {
    echo "clients: there is no $tool: install python3-venv, nodejs and npm, or set TRTC_SKIP_CLIENTS=1" >&2
    exit 1
  }
done
scripts/models.sh qwen
mkdir -p "$cache/node" "$work"

# once FOLDER FILE COMMAND...: runs a command that fills a folder of the cache, unless it was run with this file as it is.
once() {
  local now stamp="$cache/$1/installed"
  now="$(sha256sum <"$2")"
  [ "$(cat "$stamp" 2>/dev/null)" = "$now" ] && return
  "${@:3}" >&2
  echo "$now" >"$stamp"
}
packages() {
  python3 -m venv --clear "$cache/python"
  "$cache/python/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/python/requirements.txt
}
modules() {
  cp tests/clients/node/package*.json "$cache/node/"
  npm ci --prefix "$cache/node" --silent --no-audit --no-fund
}
once python tests/clients/python/requirements.txt packages
if [ "${TRTC_SKIP_CLIENTS:-}" != node ]; then
  once node tests/clients/node/package-lock.json modules
  # Node looks for packages beside the files that import them.
  rm -rf "$work/node"
  cp -r tests/clients/node "$work/node"
  ln -s "$cache/node/node_modules" "$work/node/node_modules"
fi

engine="$work/qwen.engine"
[ "$engine" -nt "$trtc" ] && [ "$engine" -nt scripts/clients.sh ] ||
  "$trtc" build "$model" -o "$engine" --target host --precision int8 --max-seq-len 1024 --max-batch 4 >&2

# Few may wait, and bodies are short, so that the suites reach both limits.
export TRTC_KEY="key-of-the-suites"
TRTC_API_KEY="$TRTC_KEY" "$trtc" serve qwen="$engine" --port 0 --max-queue 2 --max-body 256K \
  >"$work/serve.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
address=
for _ in $(seq 300); do
  address="$(sed -n 's/.*\(http:\/\/127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/serve.log" | head -n 1)"
  if [ -n "$address" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
  sleep 0.1
done
[ -n "$address" ] || { echo "clients: the server did not start:" >&2; cat "$work/serve.log" >&2; exit 1; }
export TRTC_URL="$address/v1"

# suite NAME TESTS COMMAND...: one line, or all that it printed. TESTS is a sed script that gives their number.
failed=0
suite() {
  local name="$1" tests="$2" log="$work/$1.log" begin=$SECONDS count
  shift 2
  if "$@" >"$log" 2>&1 && count="$(sed -n "$tests" "$log" | head -n 1)" && [ "${count:-0}" -gt 0 ]; then
    echo "clients: $name: $count tests passed in $((SECONDS - begin)) s"
  else
    cat "$log" >&2
    echo "clients: $name FAILED; the server's log is $work/serve.log" >&2
    failed=1
  fi
}
suite "python-$("$cache/python/bin/python" -c 'import openai; print(openai.__version__)')" \
  's/^Ran \([0-9]*\) tests\{0,1\} in.*/\1/p' "$cache/python/bin/python" -B -m unittest discover -v -s tests/clients/python
if [ "${TRTC_SKIP_CLIENTS:-}" = node ]; then
  echo 'clients: TRTC_SKIP_CLIENTS is node, the suite for Node is not run'
else
  suite "node-$(sed -n 's/^ *"version": "\(.*\)",$/\1/p' "$cache/node/node_modules/openai/package.json")" \
    's/^\(#\|ℹ\) pass \([0-9]*\)/\2/p' node --test --test-concurrency=1 "$work"/node/*.test.js
fi
exit "$failed"
