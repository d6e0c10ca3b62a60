#!/usr/bin/env bash
# Runs all loads at once against one server for a long time, and checks for losses and leaks.
NAME=soak
usage() {
  cat <<TEXT
Usage: scripts/soak.sh [options]

Against one server at once: clients that come and go, a hub that fans out, readers that do not read,
greedy clients of every kind that scripts/load-hostile.sh knows, connections with garbage, and a
reload by SIGHUP every $reload_s seconds. Then the clients leave, and the server's state is
checked. The script fails if

  - a message was lost, duplicated or reordered (as the generator counts),
  - slots, receive buffers, queued bytes, descriptors, members, channels, or counts of connections
    and handshakes are left when all have gone; or opened connections are not those closed,
  - a connection beside the greedy clients was lost, got no echo within seconds, or the server's
    memory passed $memory MiB,
  - memory grew by more than $growth_percent % and 8 MiB from the first quarter after the warm-up to
    the last,
  - a reload was not taken, or the server logged an error.

  --minutes N         how long (default $minutes); the first fifth is the warm-up
  --rate N            messages published a second (default $rate)
  --sandbox           the server runs as nobody (if this is root), and in its sandbox
TEXT
  common_options
}
minutes=30 rate=500 reload_s=5 growth_percent=10 memory=4096 sandbox=()
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
shards=2 server_core=0,1 load_core=0,1
while (($#)); do
  case $1 in
    --sandbox)
      sandbox=('[process]' 'sandbox = true')
      ((EUID)) || sandbox+=('user = "nobody"')
      shift ;;
    --minutes | --rate)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --minutes) minutes=$2 ;;
        --rate) rate=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
need_number --minutes "$minutes"
need_number --rate "$rate"
command -v curl >/dev/null || die "curl is missing: install it with the system's packages"
prepare
rm -f "$out"/*.{json,failed,tsv,log}

loads=()
stop_loads() {
  local pid
  for pid in "${loads[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${loads[@]}"; do wait "$pid" 2>/dev/null || true; done
  loads=()
}
trap 'stop_loads; stop_server' EXIT

configuration() { # MESSAGE-BYTES: a configuration, identified by this value
  printf '%s\n' "${sandbox[@]}" '[limits]' "message_bytes_max = $1" '[timeouts]' \
    'send_timeout_ms = 2000' 'handshake_timeout_ms = 3000' '[hub]' 'channel_ttl_s = 5' \
    '[[channel]]' 'history_ttl_s = 5' '[[route]]' 'path = "/echo"' '[[route]]' 'path = "/ws"' \
    'handler = "hub"' '[[route]]' 'path = "/takeover"' 'compression = "takeover"'
}

# rounds NAME SECONDS MODE PATH OPTIONS...: runs of SECONDS each until the end; each must succeed.
rounds() {
  local name=$1 seconds=$2 mode=$3 path=$4 n=0 left code child=
  shift 4
  trap '[[ -z $child ]] || kill "$child" 2>/dev/null; exit' TERM
  while left=$((end - $(date +%s))) && ((left > 15)); do
    n=$((n + 1)) code=0
    # What a load takes besides its measured seconds: warm-up, opening, closing.
    ((left - 10 < seconds)) && seconds=$((left - 10))
    taskset -c "$load_core" timeout $((seconds + 60)) "$BENCH" "$mode" \
      "$scheme://127.0.0.1:$port$path" "$@" "${trust[@]}" --duration "$seconds" --json "$out/$name-$n.json" >"$out/$name-$n.log" 2>&1 &
    child=$!
    wait "$child" || code=$?
    child=
    ((code == 0)) || echo "$name, run $n: exit $code: $(tail -n 1 "$out/$name-$n.log")" \
      >>"$out/$name.failed"
  done
}

garbage() {
  local n=0
  while (($(date +%s) < end - 5)); do
    n=$((n + 1))
    # The server may refuse before all is written.
    ( exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 0
      ((n % 3)) || printf 'GET /echo HTTP/1.1\r\nHost: ' >&3
      head -c $((RANDOM % 3000)) /dev/urandom >&3
      ((n % 2)) || timeout 1 cat <&3 >"$out/garbage.out" ) 2>/dev/null || true
    sleep 0.02
  done
  echo "$n" >"$out/garbage.count"
}

reloads() {
  local n=0
  while (($(date +%s) < end - 5)); do
    sleep "$reload_s"
    n=$((n + 1))
    { configuration $((1048576 + n % 2)); listener; } >"$out/server.toml"
    kill -HUP "$server_pid"
  done
  echo "$n" >"$out/reloads.count"
}
listener() { printf '\n[[listener]]\naddress = "127.0.0.1:%s"\n' "$port"; }

metrics() { curl -s -m 10 "http://127.0.0.1:$((port + 1))/metrics"; }
# sum NAME: of all its labels.
sum() { metrics | awk -v name="seawall_$1" '{ split($1, a, "{") } a[1] == name { s += $2 } END { print s + 0 }'; }
memory_kib() { awk '/^RssAnon/ { print $2 }' "/proc/$server_pid/status"; }
descriptors() { find "/proc/$server_pid/fd" -mindepth 1 | wc -l; }

start_server "$(configuration 1048576)"
before=$(descriptors)
end=$(($(date +%s) + minutes * 60)) begun=$(date +%s)
echo "$NAME: $minutes minutes, server $server_pid" >&2
rounds fanout 60 fanout /ws --channels 20 --subscribers 400 --publishers 4 --rate "$rate" & loads+=($!)
rounds churn 60 connect /echo --hold 2 --population 500 & loads+=($!)
rounds slow 20 slow /echo --connections 40 --share 25% --settle 2 & loads+=($!)
# A large message fits the configured bound; each run is two phases of these seconds, and their ends.
rounds hostile 10 hostile /echo --kind mix --connections 40 --greedy 16 --rate 400 \
  --large-bytes 900000 --memory-max $((memory * 1048576)) --server-pid "$server_pid" & loads+=($!)
garbage & loads+=($!)
reloads & loads+=($!)
while (($(date +%s) < end)); do
  kill -0 "$server_pid" 2>/dev/null || die "the server ended: $(tail -n 3 "$out/server.log")"
  printf '%s\t%s\t%s\n' $(($(date +%s) - begun)) "$(memory_kib)" "$(descriptors)" >>"$out/samples.tsv"
  sleep 2
done
for pid in "${loads[@]}"; do wait "$pid" || true; done
loads=()

problems=()
check() { [[ $2 == "$3" ]] || problems+=("$1: $2, not $3"); }
# The handful of seconds in which the last ones linger, and channels are forgotten.
gauges=(shard_connections connections_open handshakes channel_members channels outbox_bytes
  partial_bytes buffers_lent mailbox_bytes)
left() { metrics | grep -E "^seawall_($(IFS='|'; echo "${gauges[*]}"))({| )" | awk '$2 != 0'; }
for _ in {1..60}; do [[ -z $(left) && $(descriptors) == "$before" ]] && break; sleep 1; done
[[ -z $(left) ]] || problems+=("left behind: $(left | tr '\n' ' ')")
check "descriptors" "$(descriptors)" "$before"
check "opened connections against closed" "$(sum opened_total)" "$(sum closed_total)"
rested=$(memory_kib)

# quarter FROM TO: mean memory between these shares of the time after the warm-up.
quarter() {
  awk -v from="$1" -v to="$2" -v all=$((minutes * 60)) '
    { t = ($1 / all - 0.2) / 0.8 } t >= from && t <= to { s += $2; n++ }
    END { if (n) printf "%d\n", s / n; else print 0 }' "$out/samples.tsv"
}
first=$(quarter 0 0.25) last=$(quarter 0.75 1)
((last <= first + first * growth_percent / 100 + 8192)) ||
  problems+=("memory grew from $first to $last KiB")
reloaded=$(grep -c 'configuration reloaded' "$out/server.log" || true)
check "reloads taken" "$reloaded" "$(cat "$out/reloads.count")"
errors=$(grep -cE ' (ERROR|PANIC) |panicked' "$out/server.log" || true)
check "errors in the log" "$errors" 0
for file in "$out"/*.failed; do
  if [[ -s $file ]]; then problems+=("$(cat "$file")"); fi
done
# results NAME: of all its runs that have any.
results() { find "$out" -maxdepth 1 -name "$1-*.json" -exec cat {} +; }
total() { results "$1" | jq -s "map(.$2 // 0) | add // 0"; }
# p99 NAME [KEY]: the highest of all its runs.
p99() {
  results "$1" | jq -s --arg key "${2:-latency_p99_ns}" \
    'map(.[$key] // 0) | max // 0 | . / 1e6 | . * 100 | round / 100'
}
lost=$(($(total fanout losses) + $(total fanout disordered)))
check "lost or disordered messages" "$lost" 0

{
  printf 'opened\tdeliveries\tpublishes\tslow closed\trefused\tgarbage\treloads\tlost\t'
  printf 'fan-out p99 ms\tgreedy batches\tbeside greedy p99 ms\t'
  printf 'memory: first KiB\tlast\tat rest\n'
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(sum opened_total)" \
    "$(sum deliveries_total)" "$(sum publishes_total)" "$(sum slow_reader_closes_total)" \
    "$(sum refused_total)" "$(cat "$out/garbage.count")" "$reloaded" "$lost" "$(p99 fanout)" \
    "$(total hostile greedy_batches)" "$(p99 hostile beside_p99_ns)" "$first" "$last" "$rested"
} | tee "$out/table.tsv" | column -t -s $'\t'
stop_server
echo "JSON, samples and logs: $out" >&2
((${#problems[@]} == 0)) || die "$(printf '%s\n' "${problems[@]}")"
echo "$NAME: nothing was lost, and nothing is left"
