#!/usr/bin/env bash
# Measures echoes per second, and their latency at half that rate.
NAME=load-echo
usage() {
  cat <<TEXT
Usage: scripts/load-echo.sh [options]

For each number of connections: a closed loop that finds the throughput, then an open loop at a
share of it whose latencies count from the intended send times. Prints a table and draws
latency.svg (percentiles) and throughput.svg (by connections).

  --connections A,B   numbers of connections (default $connections)
  --size SIZES        payload: bytes, FROM..TO, or BYTES:WEIGHT,… (default $size)
  --depth N           messages in flight in the closed loop (default $depth)
  --load PERCENT      rate of the open loop, of the throughput found (default $percent)
  --seconds S         measured seconds of a run (default $seconds)
TEXT
  common_options
}
connections=200,1000,5000 size=20 depth=1 percent=50 seconds=8
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --connections | --size | --depth | --load | --seconds)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --connections) connections=$2 ;;
        --size) size=$2 ;;
        --depth) depth=$2 ;;
        --load) percent=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
IFS=, read -ra counts <<<"$connections"
need_number --connections "${counts[@]}"
need_number --load "$percent"
need_number --seconds "$seconds"
prepare

names=() curves=() points=
for count in "${counts[@]}"; do
  start_server
  common=(--connections "$count" --size "$size" --duration "$seconds" --warmup 2)
  load $((seconds + 60)) "closed-$count" echo "${common[@]}" --depth "$depth"
  rate=$(jq --argjson percent "$percent" '.per_second * $percent / 100 | floor | [., 1] | max' \
    "$out/closed-$count.json")
  load $((seconds + 60)) "open-$count" echo "${common[@]}" --rate "$rate" \
    --histogram-log "$out/open-$count.hlog"
  stop_server
  names+=("closed-$count" "open-$count")
  curves+=("$count connections, $rate/s=$out/open-$count.hgrm")
  points+=${points:+,}$out/closed-$count.json
done
plot percentiles --out "$out/latency.svg" --title "Echo latency, open loop at $percent % of capacity" \
  --divisor 1000 --y-label "latency (ms)" "${curves[@]}"
plot lines --out "$out/throughput.svg" --title "Echoes per second, closed loop, $size bytes" \
  --y per_second --y-label "messages per second" "Seawall, $shards shard(s)=$points"
table() {
  printf 'connections\tmessages/s\tns CPU/message\topen loop/s\tp50 ms\tp99 ms\tp99.9 ms\tmax ms\n'
  local count
  for count in "${counts[@]}"; do
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$count" \
      "$(value "closed-$count" per_second 1 0)" "$(value "closed-$count" server_cpu_ns_each 1 0)" \
      "$(value "open-$count" rate 1 0)" "$(value "open-$count" latency_p50_ns 1e6)" \
      "$(value "open-$count" latency_p99_ns 1e6)" "$(value "open-$count" latency_p99_9_ns 1e6)" \
      "$(value "open-$count" latency_max_ns 1e6)"
  done
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish "${names[@]}"
