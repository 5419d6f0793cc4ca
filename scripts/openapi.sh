#!/usr/bin/env bash
# Asks a server all that its OpenAPI document describes, and much that it does not, with Schemathesis: no answer may be an
# error of the server's, or have a status, a type, headers or a body that the document does not describe.
# Schemathesis is kept in ~/.cache/trtc/clients.
# usage: openapi.sh [SECONDS [SEED]]       45 seconds and seed 1 without; with TRTC_SKIP_CLIENTS=1 it runs nothing, and says so
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-45}" seed="${2:-1}"
trtc="${TRTC:-target/debug/trtc}"
venv="$HOME/.cache/trtc/clients/venv-openapi"
pins=scripts/openapi-requirements.txt
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance

if [ "${TRTC_SKIP_CLIENTS:-}" = 1 ]; then
  echo 'openapi: TRTC_SKIP_CLIENTS is 1, Schemathesis is not run'
  exit 0
fi
command -v python3 >/dev/null || {
  echo 'openapi: there is no python3: install python3-venv, or set TRTC_SKIP_CLIENTS=1' >&2
  exit 1
}
[ -x "$trtc" ] || { echo "openapi: no $trtc: build it (cargo build -p trtc), or name it as TRTC" >&2; exit 1; }

if ! cmp -s "$pins" "$venv/installed.txt"; then
  echo "openapi: installing Schemathesis into $venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
  cp "$pins" "$venv/installed.txt"
fi

out="$PWD/target/openapi"
rm -rf "$out"
mkdir -p "$out/model" "$out/engines"
# A model of random weights whose tokens are bytes, and whose template knows tools.
cp tests/golden/tiny/llama/{config.json,model.safetensors} "$out/model/"
python3 - "$out/model" <<'PY'
import json, sys
special = ['<unk>', '<s>', '</s>']
vocab = {name: i for i, name in enumerate(special)}
vocab.update({f'<0x{b:02X}>': b + 3 for b in range(256)})
vocab.update({f'w{i}': i for i in range(259, 384)})
added = [dict(id=i, content=special[i], special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)
         for i in (1, 2)]
tokenizer = dict(
    version='1.0', truncation=None, padding=None, post_processor=None, pre_tokenizer=None, normalizer=None,
    added_tokens=added, decoder=dict(type='Sequence', decoders=[dict(type='ByteFallback'), dict(type='Fuse')]),
    model=dict(type='BPE', dropout=None, unk_token='<unk>', continuing_subword_prefix=None, end_of_word_suffix=None,
               fuse_unk=False, byte_fallback=True, ignore_merges=False, vocab=vocab, merges=[]))
template = ("{% if tools %}{{ tools | tojson }} as <tool_call>{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
            "{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}\n{% endfor %}")
config = dict(bos_token='<s>', eos_token='</s>', chat_template=template)
for name, value in (('tokenizer.json', tokenizer), ('tokenizer_config.json', config)):
    with open(f'{sys.argv[1]}/{name}', 'w') as f:
        json.dump(value, f)
PY
"$trtc" build "$out/model" -o "$out/engines/tiny.engine" --max-seq-len 256 --max-batch 8 >"$out/build.log" 2>&1 ||
  { cat "$out/build.log" >&2; exit 1; }

TRTC_ADMIN_KEY=openapi "$trtc" serve "$out/engines/tiny.engine" --engine-dir "$out/engines" --port 0 --threads 1 \
  --max-body 1M --log-format json >"$out/address" 2>"$out/server.log" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
url=
for _ in $(seq 100); do
  url="$(sed -n 's/^listening on //p' "$out/address")"
  [ -z "$url" ] && kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
[ -n "$url" ] || { cat "$out/server.log" >&2; echo 'openapi: the server did not start' >&2; exit 1; }

# run SECONDS NAME OPTION...
run() {
  local time="$1" name="$2"
  shift 2
  # It writes into the folder that it is run in.
  (cd "$out" && "$venv/bin/schemathesis" run "$url/openapi.json" --header 'Authorization: Bearer openapi' --checks "$checks" \
    --seed "$seed" --max-time "$time" --phases examples,coverage,fuzzing --warnings off --continue-on-failure "$@") \
    >"$out/$name.log" 2>&1 && return
  tail -n 200 "$out/$name.log" >&2
  echo "openapi: FAILED; all of it is in $out/$name.log, the server's log beside it" >&2
  return 1
}
# It learns the model's name, and could unload it: what unloads has a turn of its own, at the end.
run "$seconds" all --exclude-operation-id unloadModel
run 5 models --include-operation-id loadModel --include-operation-id unloadModel
kill -TERM "$server"
wait "$server" || { tail -n 20 "$out/server.log" >&2; echo 'openapi: the server did not end as it should' >&2; exit 1; }
trap - EXIT
# Every request has a line in the server's log, but those for its health.
echo "openapi: $(grep -c '"request_id"' "$out/server.log") requests of Schemathesis (seed $seed), no finding"
