#!/usr/bin/env bash
# Reloads a server ten times a second with random values of every option, while clients are in
# the middle of every kind of message. The same runs for some seconds in
# `cargo test --test reload_fuzz`; this script is for the long run.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/fuzz-reload.sh [-h] [SECONDS [SEED]]

  SECONDS   how long it runs (default 600)
  SEED      where its random values begin (default: another one each time; it is printed)

Exit status: 0 nothing found, 1 a finding, 2 wrong usage.
TEXT
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
esac
seconds=${1:-600}
seed=${2:-$RANDOM$RANDOM}
if ! [[ $seconds =~ ^[1-9][0-9]*$ && $seed =~ ^[1-9][0-9]*$ ]]; then
    usage >&2
    exit 2
fi
cd "$(dirname "$0")/.."
echo "fuzz-reload.sh: $seconds s from seed $seed"
export FUZZ_RELOAD_SECONDS=$seconds FUZZ_RELOAD_SEED=$seed
# One after the other: each run counts on a core of its own for the server.
cargo test --test reload_fuzz -- --test-threads 1 --nocapture || exit 1
