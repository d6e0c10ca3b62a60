#!/usr/bin/env bash
# The cost of metrics: CPU of a small echo with everything on and a scrape each second, against
# everything off, in pairs, and the ratio's median with a bootstrap bound.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<EOF
Usage: scripts/measuring-cost.sh [options]

Each pair runs the server twice, in alternating order: once with histograms, the histogram log
(1 s) and a scrape of /metrics each second, once with histograms off and no scrape. The load is
the same closed loop of 20-byte echoes. CPU is the whole process's, control thread included.

  --pairs N         pairs (default 15)
  --seconds S       measured seconds of a run (default 3)
  --connections N   busy connections (default 200)
  --port P          port of the server; P+1 is its admin port (default 9480)
  --out DIR         where the JSON of each run goes (default target/measuring-cost)
  --no-build        use what is built
  -h, --help        this text

Needs two idle cores, python3 and curl.
EOF
}

die() { echo "measuring-cost.sh: $*" >&2; exit 1; }

pairs=15 seconds=3 connections=200 port=9480 build=1 out=$ROOT/target/measuring-cost
while (($#)); do
  case $1 in
    --pairs) pairs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --connections) connections=$2; shift ;;
    --port) port=$2; shift ;;
    --out) out=$2; shift ;;
    --no-build) build=0 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

cd "$ROOT"
((build)) && cargo build --quiet --release --workspace
rm -rf "$out"
mkdir -p "$out"
server='' scraper=''
stop() {
  [[ -z $scraper ]] || kill "$scraper" 2>/dev/null || true
  [[ -z $server ]] || { kill -9 "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
  server='' scraper=''
}
trap stop EXIT

scrape() {
  while :; do
    curl -s -o /dev/null "127.0.0.1:$((port + 1))/metrics" || true
    sleep 1
  done
}

# run NAME on|off
run() {
  local options=(--metrics-histograms=false)
  [[ $2 == off ]] || options=(--histogram-log "$out/histograms.log" --metrics-histogram-log-interval-s 1)
  taskset -c 0 target/release/seawall serve --shards 1 --listen "127.0.0.1:$port" \
    --admin "127.0.0.1:$((port + 1))" "${options[@]}" 2>"$out/$1.log" &
  server=$!
  for _ in $(seq 100); do
    curl -s -o /dev/null "127.0.0.1:$((port + 1))/healthz" && break
    kill -0 "$server" 2>/dev/null || die "the server did not start: $(cat "$out/$1.log")"
    sleep 0.05
  done
  if [[ $2 == on ]]; then
    scrape &
    scraper=$!
  fi
  taskset -c 1 target/release/seawall-bench echo "ws://127.0.0.1:$port/echo" --size 20 \
    --connections "$connections" --warmup 1 --duration "$seconds" --server-pid "$server" \
    --json "$out/$1.json" >/dev/null
  stop
}

for pair in $(seq "$pairs"); do
  order=(on off)
  ((pair % 2)) || order=(off on)
  for which in "${order[@]}"; do run "$which-$pair" "$which"; done
  printf '\rpair %d of %d' "$pair" "$pairs" >&2
done
echo >&2

python3 - "$out" "$pairs" <<'PYTHON'
import json, random, statistics, sys

folder, pairs = sys.argv[1], int(sys.argv[2])
cost = lambda which, pair: json.load(open(f"{folder}/{which}-{pair}.json"))["server_cpu_ns_each"]
ratios = [cost("on", pair) / cost("off", pair) for pair in range(1, pairs + 1)]
random.seed(1)
draws = sorted(statistics.median(random.choices(ratios, k=pairs)) for _ in range(10_000))
print(f"pairs                 {pairs}")
print(f"median ratio          {statistics.median(ratios):.4f}")
print(f"95 % bootstrap bound  {draws[int(0.95 * len(draws))]:.4f}")
print("ratios                " + " ".join(f"{ratio:.3f}" for ratio in sorted(ratios)))
PYTHON
