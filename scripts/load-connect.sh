#!/usr/bin/env bash
# Measures handshakes per second, their latency at half that rate, and churn.
NAME=load-connect
usage() {
  cat <<TEXT
Usage: scripts/load-connect.sh [options]

Opens and cleanly closes connections: as many as go through (closed loop), then at a share of that
with a rising rate (open loop), then a churn: a population of which each lives a few seconds. Prints
a table and draws handshake.svg (percentiles).

  --parallel N        handshakes at a time in the closed loop (default $parallel)
  --load PERCENT      rate of the open loop, of the closed one's (default $percent)
  --population N      connections of the churn (default $population)
  --hold S            seconds that each of them lives (default $hold)
  --seconds S         measured seconds of a run (default $seconds)
TEXT
  common_options
}
parallel=128 percent=50 population=5000 hold=2 seconds=8
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --parallel | --load | --population | --hold | --seconds)
      (($# > 1)) || die "$1 needs a value"
      need_number "$1" "$2"
      case $1 in
        --parallel) parallel=$2 ;;
        --load) percent=$2 ;;
        --population) population=$2 ;;
        --hold) hold=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
prepare

start_server
load $((seconds + 60)) closed connect --parallel "$parallel" --duration "$seconds"
rate=$(jq --argjson percent "$percent" '.per_second * $percent / 100 | floor | [., 1] | max' \
  "$out/closed.json")
load $((seconds + 60)) open connect --parallel 1024 --rate "$rate" --ramp 2 --duration "$seconds"
load $((seconds + hold + 60)) churn connect --population "$population" --hold "$hold" \
  --duration "$seconds"
stop_server
plot percentiles --out "$out/handshake.svg" --title "TCP connect and WebSocket handshake" \
  --divisor 1000 --y-label "latency (ms)" "closed, $parallel at a time=$out/closed.hgrm" \
  "open, $rate/s=$out/open.hgrm" "churn of $population=$out/churn.hgrm"
table() {
  printf 'load\tconnections/s\tus CPU each\tp50 ms\tp99 ms\tp99.9 ms\tmax ms\tfailed\n'
  local name
  for name in closed open churn; do
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$(value $name per_second 1 0)" \
      "$(value $name server_cpu_ns_each 1e3 1)" "$(value $name handshake_p50_ns 1e6)" \
      "$(value $name handshake_p99_ns 1e6)" "$(value $name handshake_p99_9_ns 1e6)" \
      "$(value $name handshake_max_ns 1e6)" "$(value $name failed)"
  done
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish closed open churn
