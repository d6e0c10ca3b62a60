#!/usr/bin/env bash
# Measures echoes through an application behind a gateway against echoes of the server itself.
NAME=load-gateway
usage() {
  cat <<TEXT
Usage: scripts/load-gateway.sh [options]

Starts an application that echoes over links (seawall-bench gateway), and a server with the paths
/echo and /gateway. Alternates both paths: a closed loop with one message in flight for each
connection. Prints the latencies, the CPU time of the server's outer thread for each record, and the
memory of idle sessions; then ends the application while sessions are idle, starts it again, and
prints how long the sessions took to move.

  --connections N   connections of the loop (default $connections)
  --idle N          idle sessions for memory and moves (default $idle)
  --size BYTES      payload (default $size)
  --rounds N        runs of each path (default $rounds)
  --seconds S       measured seconds of a run (default $seconds)
TEXT
  common_options
}
connections=50 idle=5000 size=20 rounds=3 seconds=5
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --connections | --idle | --size | --rounds | --seconds)
      (($# > 1)) || die "$1 needs a value"
      need_number "$1" "$2"
      declare "${1#--}=$2"
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
prepare

application_pid=
end_application() {
  [[ -n $application_pid ]] || return 0
  kill -9 "$application_pid" 2>/dev/null || true
  wait "$application_pid" 2>/dev/null || true
  application_pid=
}
trap 'end_application; stop_server' EXIT

# start_application PORT: an application that the server dials there.
start_application() {
  taskset -c "$load_core" "$BENCH" gateway "127.0.0.1:$1" >>"$out/application.log" 2>&1 &
  application_pid=$!
}

# metric NAME: the sum of a metric's values.
metric() {
  curl -fsS "http://127.0.0.1:$((port + 1))/metrics" |
    awk -v name="$1" 'index($1, name) == 1 { sum += $2 } END { print sum + 0 }'
}

# await WHAT NAME VALUE: waits until a metric has a value.
await() {
  for _ in {1..3000}; do
    [[ $(metric "$2") != "$3" ]] || return 0
    sleep 0.02
  done
  die "$1 did not come: $2 is $(metric "$2"), not $3"
}

# The CPU time of the outer thread (ns).
outer_ns() {
  local task
  for task in /proc/"$server_pid"/task/*; do
    [[ $(<"$task/comm") != outer-0 ]] || cut -d' ' -f1 "$task/schedstat"
  done
}

rss_anon_kib() { awk '/^RssAnon/ { print $2 }' "/proc/$server_pid/status"; }

start_application $((port + 2))
start_server "$(cat <<TOML
[[backend]]
name = "app"
links = ["ws://127.0.0.1:$((port + 2))/", "ws://127.0.0.1:$((port + 3))/"]
links_per_node = 8

[[route]]
path = "/echo"

[[route]]
path = "/gateway"
handler = "gateway"
TOML
)"
await "the links" seawall_links_ready 4

common=(--connections "$connections" --size "$size" --duration "$seconds" --warmup 1 --depth 1)
table=(path round p50_us p99_us per_second outer_ns_a_record)
rows=("${table[*]}")
for ((round = 1; round <= rounds; round++)); do
  for path in echo gateway; do
    load_path=/$path
    before_ns=$(outer_ns) before=$(metric seawall_link_records_)
    load $((seconds + 60)) "$path-$round" echo "${common[@]}"
    records=$(($(metric seawall_link_records_) - before))
    each=-
    ((records == 0)) || [[ $path == echo ]] || each=$((($(outer_ns) - before_ns) / records))
    rows+=("$path $round $(value "$path-$round" latency_p50_ns 1000) $(value "$path-$round" latency_p99_ns 1000) \
$(value "$path-$round" per_second 1 0) $each")
  done
done
printf '%s\n' "${rows[@]}" | column -t

# Idle sessions: their memory beside that of idle connections, and their moves.
load_path=/gateway
before_kib=$(rss_anon_kib)
taskset -c "$load_core" "$BENCH" hold "$scheme://127.0.0.1:$port$load_path" "${trust[@]}" \
  --connections "$idle" --hold 60 --park >"$out/hold.log" 2>&1 &
holder=$!
await "$idle sessions" seawall_link_sessions "$idle"
echo "$idle idle sessions: $((($(rss_anon_kib) - before_kib) * 1024 / idle)) bytes each, slot included"
first=$application_pid
start_application $((port + 3))
kill -9 "$first"
ended=$EPOCHREALTIME
await "the moves" seawall_gateway_moved_total "$idle"
moved=$EPOCHREALTIME
echo "$idle sessions moved $(awk -v a="$ended" -v b="$moved" 'BEGIN { printf "%.2f", b - a }') s" \
  "after kill -9; closed: $(metric seawall_gateway_hold_timeouts_total)"
kill "$holder" 2>/dev/null || true
finish
