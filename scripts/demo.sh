#!/usr/bin/env bash
# Shows the whole way on one machine: checkpoint -> engine -> text, and an engine for a GPU that need not be here.
# usage: demo.sh TRTC MODEL.gguf FOLDER
set -euo pipefail

trtc="$1" model="$2" out="$3"
mkdir -p "$out"
engine="$out/smollm2.engine"
ptx="$out/sm_90"

say() { printf '\n== %s\n' "$*"; }
show() { printf '$'; printf ' %q' "$@"; printf '\n'; "$@"; }

say "Build an engine for this machine's CPU"
show "$trtc" build "$model" -o "$engine" --target host --precision bf16

say 'Ask it two things at once, in one batch'
show "$trtc" run "$engine" --chat --max-tokens 48 -p 'What is the capital of France?' -p 'Name three primary colours.'

say 'Look inside'
show "$trtc" inspect "$engine"

say 'Build an engine for an H100 on this machine'
rm -rf "$ptx"
gpu="$out/smollm2.sm_90.engine"
show "$trtc" build "$model" -o "$gpu" --target sm_90 --precision bf16 --dump-dir "$ptx"
count="$(find "$ptx" -name '*.ptx' | wc -l)"
[ "$count" -gt 0 ] || { echo "demo: no PTX was written to $ptx" >&2; exit 1; }

say 'Done'
echo "engine: $engine ($(du -h "$engine" | cut -f1))"
echo "engine for sm_90: $gpu ($(du -h "$gpu" | cut -f1))"
echo "its PTX: $count files in $ptx/kernels; the module after each pass is beside them"
