#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz under libFuzzer for a while each, starting from the seeds.
#
# The same bodies run over the seeds and generated input in `cargo test --test proto_fuzz_bodies`;
# this script is for the long run, where coverage leads.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/fuzz.sh [-h] [-t SECONDS] [TARGET...]

  -t SECONDS   how long each target runs (default 60)
  TARGET       request, frames, session, protocol, requests, answers, link, pusher, proxy,
               extensions, inflate, deflate, tls_records, tls_handshake (default: all)

Needs cargo-fuzz (`cargo install cargo-fuzz`), a C++ compiler, and a nightly toolchain; without
nightly the stable compiler is used with RUSTC_BOOTSTRAP=1 and no sanitizer. What is found is
written to tests/fuzz/artifacts; replay it with
`cargo fuzz run --fuzz-dir tests/fuzz TARGET FILE`.
Exit status: 0 nothing found, 1 a finding, 2 the machine lacks something.
TEXT
}

seconds=60
while getopts ':ht:' option; do
    case $option in
        h) usage; exit 0 ;;
        t) seconds=$OPTARG ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: -t wants a number of seconds" >&2; exit 2; }
all=(request frames session protocol requests answers link pusher proxy extensions inflate
    deflate tls_records tls_handshake)
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")

cd "$(dirname "$0")/.."
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz.sh: cargo-fuzz is missing: run 'cargo install cargo-fuzz'" >&2
    exit 2
fi
for target in "${targets[@]}"; do
    if [[ ! -f tests/fuzz/fuzz_targets/$target.rs ]]; then
        echo "fuzz.sh: no target '$target': there are ${all[*]}" >&2
        exit 2
    fi
done

toolchain=()
sanitizer=address
if cargo +nightly --version >/dev/null 2>&1; then
    toolchain=(+nightly)
else
    export RUSTC_BOOTSTRAP=1
    sanitizer=none
fi

for target in "${targets[@]}"; do
    corpus=tests/fuzz/corpus/$target
    mkdir -p "$corpus"
    log=$(mktemp)
    status=0
    cargo "${toolchain[@]}" fuzz run --fuzz-dir tests/fuzz --sanitizer "$sanitizer" "$target" \
        "$corpus" "tests/fuzz/seeds/$target" \
        -- -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 >"$log" 2>&1 || status=$?
    if ((status)); then
        tail -n 60 "$log" >&2
        rm -f "$log"
        echo "fuzz.sh: $target: stopped with status $status" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -n 1)
    inputs=$(find "$corpus" -type f | wc -l)
    echo "$target: ${runs:-?} runs in $seconds s, ${covered:-?}, corpus $inputs"
    rm -f "$log"
done
