#!/usr/bin/env bash
# Installs what a build needs beside Rust, once: Debian's packages of LLVM and MLIR 22, lld, and ptxas.
# ptxas is used by tests and for cubins; building an engine does not need it.
# usage: setup.sh [--no-ptxas]
set -euo pipefail

packages=(llvm-22-dev libmlir-22-dev mlir-22-tools libpolly-22-dev libclang-22-dev libzstd-dev zlib1g-dev lld g++)
cache="$HOME/.cache/trtc"
ptxas="$cache/ptxas/ptxas"

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}" >&2
  root=(env DEBIAN_FRONTEND=noninteractive)
  [ "$(id -u)" = 0 ] || root=(sudo "${root[@]}")
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if [ "${1:-}" != --no-ptxas ] && [ ! -x "$ptxas" ]; then
  tmp="$(mktemp -d)"
  trap 'rm -rf "$tmp"' EXIT
  echo "setup: fetching ptxas" >&2
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$tmp" 'nvidia-cuda-nvcc==13.0.*'
  mkdir -p "$(dirname "$ptxas")"
  python3 - "$tmp" "$ptxas" <<'PY'
import glob, os, sys, zipfile
tmp, out = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(tmp + '/*.whl')[0])
with open(out + '.part', 'wb') as f:
    f.write(wheel.read('nvidia/cu13/bin/ptxas'))
os.chmod(out + '.part', 0o755)
os.replace(out + '.part', out)
PY
  "$ptxas" --version | tail -n 1 >&2
fi
