#!/usr/bin/env bash
# Measures idle connections: memory of process and kernel, and CPU; then 1 % of the connections send
# messages.
NAME=load-hold
usage() {
  cat <<TEXT
Usage: scripts/load-hold.sh [options]

For each number of connections a fresh server: open them, hold them with heartbeats, let 1 % send a
message each second, and ask all whether they are alive. Prints a table and draws memory.svg (the
process by connections) and kernel.svg (bytes per connection, process and kernel).

  --connections A,B   numbers of connections (default $connections)
  --hold S            seconds to hold them (default $hold)
  --heartbeat S       seconds between the server's pings (default $heartbeat)
  --echo-share SHARE  share that sends a message each second (default $echo_share)
  --echo-seconds S    for so long (default $echo_seconds)
  --threads N         threads of the generator (default $threads)

The kernel's figures are of both ends, which wait alike: the table shows the server's half. Needs
about 11 KB of memory for each connection, and root for the kernel's caches by name.
TEXT
  common_options
}
connections=5000,20000,50000 hold=10 heartbeat=5 echo_share=1% echo_seconds=5 threads=1
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
shards=4
while (($#)); do
  case $1 in
    --connections | --hold | --heartbeat | --echo-share | --echo-seconds | --threads)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --connections) connections=$2 ;;
        --hold) hold=$2 ;;
        --heartbeat) heartbeat=$2 ;;
        --echo-share) echo_share=$2 ;;
        --echo-seconds) echo_seconds=$2 ;;
        --threads) threads=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
IFS=, read -ra counts <<<"$connections"
need_number --connections "${counts[@]}"
need_number --hold "$hold"
need_number --heartbeat "$heartbeat"
need_number --echo-seconds "$echo_seconds"
prepare

names=() points='' bars=()
for count in "${counts[@]}"; do
  start_server "[[route]]
path = \"/echo\"
ping_interval_ms = $((heartbeat * 1000))"
  load $((hold + echo_seconds + count / 1000 + 120)) "hold-$count" hold --connections "$count" \
    --hold "$hold" --echo-share "$echo_share" --echo-seconds "$echo_seconds" \
    --threads "$threads" --parallel 512 --timeout 30 --park
  stop_server
  names+=("hold-$count")
  bars+=("$count=$out/hold-$count.json")
  points+=${points:+,}$out/hold-$count.json
done
plot lines --out "$out/memory.svg" --title "Memory of the server's process, idle connections" \
  --y anon_after_bytes --divisor 1048576 --y-label "RssAnon (MiB)" "Seawall=$points"
plot bars --out "$out/kernel.svg" --title "Memory for each idle connection" \
  --keys "process (RssAnon)=anon_each_bytes,kernel slab (server's half)=slab_server_each_bytes" \
  --x-label connections --y-label "memory (bytes)" "${bars[@]}"
table() {
  printf 'connections\talive\tramp s\tprocess B each\tRSS B each\tkernel B each\tidle cores\t'
  printf 'pings\techoes\tp50 ms\tp99 ms\tgenerator B each\n'
  local name
  for name in "${names[@]}"; do
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(value "$name" connections)" \
      "$(value "$name" alive)" "$(value "$name" ramp_ns 1e9)" \
      "$(value "$name" anon_each_bytes 1 0)" "$(value "$name" rss_each_bytes 1 0)" \
      "$(value "$name" slab_server_each_bytes 1 0)" "$(value "$name" idle_cores 1 4)" \
      "$(value "$name" pings)" "$(value "$name" echoes)" "$(value "$name" latency_p50_ns 1e6)" \
      "$(value "$name" latency_p99_ns 1e6)" "$(value "$name" generator_rss_each_bytes 1 0)"
  done
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish "${names[@]}"
