#!/usr/bin/env bash
# Measures deliveries per second from publishers to subscribers, and their latency at half that
# rate.
NAME=load-fanout
usage() {
  cat <<TEXT
Usage: scripts/load-fanout.sh [options]

For each crowd, which is CHANNELS x SUBSCRIBERS of each: at a rate so low that each message leaves
alone, then as fast as the messages can be delivered, then an open loop at a share of that whose
latencies count from the intended send times. Then publishes over HTTP, in batches. Losses, doubles
and disorder fail the script. Prints a table and draws latency.svg (percentiles at that share) and
throughput.svg (deliveries in a second of server CPU).

  --crowds A,B      crowds (default $crowds)
  --size BYTES      content of a message (default $size)
  --window N        messages on their way to each channel at a time, when fast (default $window)
  --alone N         deliveries a second of the first runs (default $alone)
  --load PERCENT    rate of the open loop, of the throughput found (default $percent)
  --batch N         publishes of one HTTP request (default $batch)
  --seconds S       measured seconds of a run (default $seconds)
TEXT
  common_options
}
crowds=1x1000,1x10000,1000x10 size=100 window=16 alone=20000 percent=50 batch=100 seconds=8
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --crowds | --size | --window | --alone | --load | --batch | --seconds)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --crowds) crowds=$2 ;;
        --size) size=$2 ;;
        --window) window=$2 ;;
        --alone) alone=$2 ;;
        --load) percent=$2 ;;
        --batch) batch=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
IFS=, read -ra list <<<"$crowds"
for crowd in "${list[@]}"; do
  [[ $crowd =~ ^[1-9][0-9]*x[1-9][0-9]*$ ]] || die "--crowds: $crowd is not CHANNELSxSUBSCRIBERS"
done
need_number --window "$window"
need_number --alone "$alone"
need_number --load "$percent"
need_number --batch "$batch"
need_number --seconds "$seconds"
prepare

names=() curves=() bars=()
load_path=/ws
for crowd in "${list[@]}"; do
  channels=${crowd%x*} members=${crowd#*x}
  common=(--channels "$channels" --subscribers $((channels * members)) --size "$size"
    --publishers "$((channels < 16 ? channels : 16))" --duration "$seconds" --warmup 2)
  # Where channels are many, publishes of one frame go to as many of them.
  each=$((channels < 16 ? channels : 16))
  start_server
  load $((seconds + 60)) "alone-$crowd" fanout "${common[@]}" \
    --rate $((alone < members ? 1 : alone / members))
  load $((seconds + 60)) "full-$crowd" fanout "${common[@]}" --depth 64 --batch "$each" \
    --window $((window * channels))
  rate=$(jq --argjson percent "$percent" --argjson members "$members" \
    '.per_second * $percent / 100 / $members | floor | [., 1] | max' "$out/full-$crowd.json")
  load $((seconds + 60)) "open-$crowd" fanout "${common[@]}" --batch "$each" --rate "$rate"
  stop_server
  names+=("alone-$crowd" "full-$crowd" "open-$crowd")
  curves+=("$crowd, $rate/s=$out/open-$crowd.hgrm")
  bars+=("$crowd=$out/full-$crowd.json")
done
start_server
load $((seconds + 60)) api fanout --channels 10 --subscribers 10 --size "$size" --batch "$batch" \
  --api "http://127.0.0.1:$((port + 1))" --duration "$seconds" --warmup 2
stop_server
names+=(api)
plot percentiles --out "$out/latency.svg" --divisor 1000 --y-label "latency (ms)" \
  --title "Publish to delivery, open loop at $percent % of capacity" "${curves[@]}"
plot bars --out "$out/throughput.svg" --title "Deliveries in a second of server CPU, in thousands" \
  --divisor 1e3 --keys each_per_server_cpu_s --x-label "channels x subscribers" \
  --y-label "thousands of deliveries" "${bars[@]}"
table() {
  printf 'crowd\talone: /cpu-s\tfull: /cpu-s\tfull: /s\topen loop/s\tp50 ms\tp99 ms\tmax ms\tlost\n'
  local crowd
  for crowd in "${list[@]}"; do
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$crowd" \
      "$(value "alone-$crowd" each_per_server_cpu_s 1 0)" \
      "$(value "full-$crowd" each_per_server_cpu_s 1 0)" "$(value "full-$crowd" per_second 1 0)" \
      "$(value "open-$crowd" per_second 1 0)" "$(value "open-$crowd" latency_p50_ns 1e6)" \
      "$(value "open-$crowd" latency_p99_ns 1e6)" "$(value "open-$crowd" latency_max_ns 1e6)" \
      "$(jq -s 'map(.losses + .disordered) | add' "$out/"{alone,full,open}"-$crowd.json")"
  done
  printf 'HTTP, batches of %s\t-\t%s\t%s\t-\t%s\t%s\t%s\t%s\n' "$batch" \
    "$(value api each_per_server_cpu_s 1 0)" "$(value api published_per_second 1 0)" \
    "$(value api latency_p50_ns 1e6)" "$(value api latency_p99_ns 1e6)" \
    "$(value api latency_max_ns 1e6)" "$(value api losses)"
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish "${names[@]}"
