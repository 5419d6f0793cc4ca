#!/usr/bin/env bash
# Builds the fuzz targets with coverage instrumentation on stable Rust and runs each for a time, two at once.
# New inputs are kept in tests/fuzz/corpus, what fails in tests/fuzz/findings; neither is under version control.
# usage: fuzz.sh SECONDS [TARGET]...
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"

seconds="${1:?usage: fuzz.sh SECONDS [TARGET]...}"
shift
[ $# -gt 0 ] || set -- $(cd targets && ls ./*.rs | sed 's|^\./||; s|\.rs$||')

# What cargo-fuzz passes, less the sanitizers, which stable Rust has not.
triple="$(rustc -vV | sed -n 's/^host: //p')"
flags="-Clink-arg=-fuse-ld=lld --cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$flags" cargo build --locked --release --target "$triple" $(printf -- '--bin %s ' "$@")
binaries="${CARGO_TARGET_DIR:-target}/$triple/release"

# Valid files, so that mutation starts behind the first check.
cargo run --locked --quiet -p trtc-fuzz-seeds -- seeds-generated

one() {
  local target="$1" log="findings/$1.log"
  mkdir -p "corpus/$target" findings
  if "$binaries/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
      -print_final_stats=1 -artifact_prefix="findings/$target-" \
      "corpus/$target" "seeds-generated/$target" >"$log" 2>&1; then
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, no finding"
  else
    tail -n 30 "$log" >&2
    echo "fuzz: $target FAILED; the input is in tests/fuzz/findings, run it with: $binaries/$target INPUT" >&2
    return 1
  fi
}

# Two at a time: each target is one thread.
failed=0
while [ $# -gt 0 ]; do
  pids=()
  for target in "${@:1:2}"; do
    one "$target" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  shift $(( $# < 2 ? $# : 2 ))
done
exit "$failed"
