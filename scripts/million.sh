#!/usr/bin/env bash
# A million connections on one server process: idle cost, latency of echoes, and the drain.
NAME=million
usage() {
  cat <<TEXT
Usage: scripts/million.sh [options]

One Seawall process and one generator process on this host. Opens the connections, holds them with a
heartbeat, lets a share of them send a message each second, asks every one whether it is alive, then
ends the server by SIGTERM and watches it close them. Prints what was found.

  --connections N     connections (default $connections)
  --hold S            seconds to hold them (default $hold)
  --heartbeat S       seconds between the server's pings of a connection (default $heartbeat)
  --echo-share SHARE  share that sends a message each second (default $echo_share)
  --echo-seconds S    for so long (default $echo_seconds)
  --drain S           seconds over which the server spreads its closes (default $drain)
  --threads N         threads of the generator (default $threads)
  --parallel N        connections being opened at a time (default $parallel)

Where it may (root), it runs in a network namespace of its own, whose table of established
connections has room for all; elsewhere in the host's, and says so.

Every ring has a table of connections as long as the limit of open files allows, so the server needs
enough shards: connections / (limit - 1000) at least. Both ends need about 11 KB of memory for each
connection together, nearly all of it the kernel's. Run it as root: the kernel's figures by cache are
for root, and root is not bound by fs.file-max.
TEXT
  common_options
}
connections=1000000 hold=300 heartbeat=60 echo_share=1% echo_seconds=30 drain=60 threads=2
parallel=1024
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
shards=64
arguments=("$@")
while (($#)); do
  case $1 in
    --connections | --hold | --heartbeat | --echo-share | --echo-seconds | --drain | --threads | \
      --parallel)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --connections) connections=$2 ;;
        --hold) hold=$2 ;;
        --heartbeat) heartbeat=$2 ;;
        --echo-share) echo_share=$2 ;;
        --echo-seconds) echo_seconds=$2 ;;
        --drain) drain=$2 ;;
        --threads) threads=$2 ;;
        --parallel) parallel=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
need_number --connections "$connections"
need_number --hold "$hold"
need_number --heartbeat "$heartbeat"
need_number --echo-seconds "$echo_seconds"
need_number --drain "$drain"
prepare
own_network "$connections" "${arguments[@]}"

# What would fail after minutes is said now.
each_bytes=11000 headroom=1000
files=$(ulimit -n)
((shards * (files - headroom) >= connections)) ||
  die "$shards shards hold $((shards * (files - headroom))) connections; use more --shards, or raise" \
    "the limit of open files ($files)"
available=$(awk '/^MemAvailable:/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
((available >= connections * each_bytes)) ||
  die "$connections connections need $((connections * each_bytes >> 20)) MiB, and only" \
    "$((available >> 20)) MiB are available: use fewer --connections"
if ((EUID != 0)); then
  ((connections * 2 + 10000 <= $(</proc/sys/fs/file-max))) ||
    die "fs.file-max is $(</proc/sys/fs/file-max): both ends need $((connections * 2 + 10000))"
fi

start_server "[drain]
window_ms = $((drain * 1000))
deadline_ms = $((drain * 1000 + 30000))

[[route]]
path = \"/echo\"
ping_interval_ms = $((heartbeat * 1000))"
# Opening, asking and closing at 2,000 connections a second, which is slow, and all phases in full.
load $((connections * 3 / 2000 + hold + echo_seconds + drain + 300)) million hold \
  --connections "$connections" --hold "$hold" --threads "$threads" --parallel "$parallel" \
  --timeout 60 --settle 3 --park --echo-share "$echo_share" --echo-seconds "$echo_seconds" \
  --drain $((drain + 40)) --progress
for _ in {1..600}; do kill -0 "$server_pid" 2>/dev/null || break; sleep 0.1; done
left="ended by itself"
if kill -0 "$server_pid" 2>/dev/null; then left="still runs after its drain, and is killed"; fi
stop_server
jq -r '
  def figure(key): .[key] // 0; def s(key): figure(key) / 1e7 | round / 100 | tostring + " s";
  def b(key): figure(key) | round | tostring + " bytes";
  ["connections", "\(.opened) of \(.connections), alive at the end \(.alive), lost \(.lost)"],
  ["ramp", s("ramp_ns") + ", \(.per_second | round) connections/s"],
  ["process, RssAnon each", b("anon_each_bytes")],
  ["process, RSS each", b("rss_each_bytes")],
  ["process, RSS", "\(figure("rss_after_bytes") / 1048576 | round) MiB"],
  ["kernel each, server end", b("slab_server_each_bytes") + " (half of both ends)"],
  ["of it objects in use", "\(figure("slab_each_bytes") / 2 | round) bytes"],
  ["kernel each, both ends", b("slab_total_each_bytes")],
  ["server CPU while idle", "\(figure("idle_cores") * 1e4 | round / 1e4) cores"],
  ["pings answered", "\(.pings), \(.pings_min_each) to \(.pings_max_each) a connection"],
  ["echoes", "\(.echoes), unanswered \(.unanswered)"],
  ["echo p50, p99, p99.9", ([.latency_p50_ns, .latency_p99_ns, .latency_p99_9_ns]
    | map(. / 1e4 | round / 100 | tostring) | join(", ")) + " ms"],
  ["generator late p99", "\(.lag_p99_ns / 1e4 | round / 100) ms"],
  ["generator each", b("generator_rss_each_bytes")],
  ["drain", "\(figure("drained")) closed in " + s("drain_ns")] | @tsv' "$out/million.json" \
  >"$out/table.tsv"
printf 'server\t%s\n' "$left" >>"$out/table.tsv"
column -t -s $'\t' "$out/table.tsv"
plot bars --out "$out/million.svg" --title "Memory for each of $connections idle connections" \
  --keys "process (RSS)=rss_each_bytes,kernel slab (server's half)=slab_server_each_bytes" \
  --y-label "memory (bytes)" "Seawall=$out/million.json"
plot percentiles --out "$out/latency.svg" --divisor 1000 --y-label "latency (ms)" \
  --title "Echo latency with $connections connections open" "$echo_share a second=$out/million.hgrm"
[[ $left == "ended by itself" ]] || failed_runs+=("the server $left")
finish million
