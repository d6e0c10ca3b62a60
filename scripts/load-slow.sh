#!/usr/bin/env bash
# Measures the effect of clients that do not read on the server's memory and on other clients.
NAME=load-slow
usage() {
  cat <<TEXT
Usage: scripts/load-slow.sh [options]

Three runs against fresh servers: all read, some read slowly, and some stop reading while their
echoes continue. Prints a table and draws memory.svg (the process over time) and latency.svg (of the
connections that read).

  --connections N     connections (default $connections)
  --share SHARE       of them that read slowly (default $share)
  --read-rate BYTES   bytes per second that each of these reads, in the second run (default $read_rate)
  --size BYTES        payload of a message (default $size)
  --send-timeout S    the server closes who takes nothing for so long (default $send_timeout)
  --seconds S         measured seconds of a run (default $seconds)
TEXT
  common_options
}
connections=200 share=10% read_rate=50000 size=4096 send_timeout=5 seconds=12
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --connections | --share | --read-rate | --size | --send-timeout | --seconds)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --connections) connections=$2 ;;
        --share) share=$2 ;;
        --read-rate) read_rate=$2 ;;
        --size) size=$2 ;;
        --send-timeout) send_timeout=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
need_number --connections "$connections"
need_number --read-rate "$read_rate"
need_number --send-timeout "$send_timeout"
need_number --seconds "$seconds"
prepare

common=(--connections "$connections" --share "$share" --size "$size" --duration "$seconds")
for name in reading slow stopped; do
  case $name in
    # Fast enough for all that they are sent.
    reading) rate=20000000 ;;
    slow) rate=$read_rate ;;
    stopped) rate=0 ;;
  esac
  start_server "[timeouts]
send_timeout_ms = $((send_timeout * 1000))"
  load $((seconds + 90)) $name slow "${common[@]}" --read-rate "$rate"
  stop_server
done
plot series --out "$out/memory.svg" --title "Memory of the server with slow readers" \
  --divisor 1048576 --y-label "RssAnon (MiB)" "all read=$out/reading.json" \
  "$share read $read_rate bytes/s=$out/slow.json" "$share stop reading=$out/stopped.json"
plot percentiles --out "$out/latency.svg" --title "Echo latency of those who read" \
  --divisor 1000 --y-label "latency (ms)" "all read=$out/reading.hgrm" \
  "$share read $read_rate bytes/s=$out/slow.hgrm" "$share stop reading=$out/stopped.hgrm"
table() {
  printf 'slow ones\tMiB before\tMiB at most\tMiB at the end\tp50 ms\tp99 ms\tp99.9 ms\t'
  printf 'slow ones ended\tby 4413\n'
  local name
  for name in reading slow stopped; do
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' $name \
      "$(value $name anon_before_bytes 1048576)" "$(value $name anon_peak_bytes 1048576)" \
      "$(value $name anon_end_bytes 1048576)" "$(value $name latency_p50_ns 1e6)" \
      "$(value $name latency_p99_ns 1e6)" "$(value $name latency_p99_9_ns 1e6)" \
      "$(value $name slow_ended)" "$(value $name slow_closed_with_4413)"
  done
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish reading slow stopped
