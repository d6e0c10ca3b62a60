#!/usr/bin/env bash
# Finds engine settings that suit this host: varies each alone against the defaults.
NAME=tune
ALL_FACTORS=(ring_entries buffer_bytes buffer_memory_bytes shards min_wait_us steer)
usage() {
  cat <<TEXT
Usage: scripts/tune.sh [options]

Runs an open-loop echo load, whose latencies count from the intended send times, against the default
settings and against each other value of each setting alone, in turn and several rounds. Prints a
table of medians, says what to choose and why, and writes tuned.toml and a picture.

  --factors A,B       of: ${ALL_FACTORS[*]}
  --connections N     open connections (default $connections)
  --size SIZES        payload: bytes, FROM..TO, or BYTES:WEIGHT,… (default $size)
  --rate N            messages per second (default: half of what a closed loop reaches, or less
                      if the generator is more than 75 % busy)
  --rounds N          rounds (default $rounds); fewer than 3 cannot separate effects from noise
  --seconds S         measured seconds of a run (default $seconds)
  --ring-entries, --buffer-bytes, --buffer-memory-bytes, --shards-list, --min-wait-us, --steers A,B
                      values to try instead of the script's

A value is chosen over the default when its median p99 is at least 10 % lower and lower in every
round; or when it takes at least 10 % less server CPU for a message, less in every round, and its
median p99 is not more than 10 % higher. Less CPU for a higher p99 is reported but not chosen.
Anything else is noise, and the default stays.
TEXT
  common_options
}
connections=1000 size=20 rate='' rounds=3 seconds=5
factors=("${ALL_FACTORS[@]}")
declare -A values=(
  [ring_entries]="256,4096" [buffer_bytes]="4096,16384" [buffer_memory_bytes]="16777216,67108864"
  [shards]=2 [min_wait_us]="50,200" [steer]=cpu
)
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --factors | --connections | --size | --rate | --rounds | --seconds | --ring-entries | \
      --buffer-bytes | --buffer-memory-bytes | --shards-list | --min-wait-us | --steers)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --factors) IFS=, read -ra factors <<<"$2" ;;
        --connections) connections=$2 ;;
        --size) size=$2 ;;
        --rate) rate=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --ring-entries) values[ring_entries]=$2 ;;
        --buffer-bytes) values[buffer_bytes]=$2 ;;
        --buffer-memory-bytes) values[buffer_memory_bytes]=$2 ;;
        --shards-list) values[shards]=$2 ;;
        --min-wait-us) values[min_wait_us]=$2 ;;
        --steers) values[steer]=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
for factor in "${factors[@]}"; do
  [[ -v values[$factor] ]] || die "no factor $factor (-h lists them)"
done
need_number --connections "$connections"
need_number --rounds "$rounds"
need_number --seconds "$seconds"
[[ -z $rate ]] || need_number --rate "$rate"
prepare

# A setting is FACTOR=VALUE; "default" is none.
settings=(default)
for factor in "${factors[@]}"; do
  IFS=, read -ra each <<<"${values[$factor]}"
  for one in "${each[@]}"; do settings+=("$factor=$one"); done
done

base_shards=$shards
# serve SETTING: starts the server with it.
serve() {
  local factor=${1%%=*} setting=${1#*=}
  shards=$base_shards
  case $factor in
    default) start_server ;;
    shards) shards=$setting; start_server ;;
    steer) start_server "" "steer = \"$setting\"" ;;
    *) start_server "[engine]
$factor = $setting" ;;
  esac
}

common=(--connections "$connections" --size "$size" --duration "$seconds")
if [[ -z $rate ]]; then
  serve default
  load $((seconds + 60)) capacity echo "${common[@]}" --warmup 2
  stop_server
  rate=$(jq '.per_second / 2 | floor | [., 1] | max' "$out/capacity.json")
  # Messages that leave one by one cost the generator more than those of a closed loop, and a
  # generator without room measures itself.
  roomy=0
  for _ in {1..8}; do
    rm -f "$out/probe.json"
    serve default
    load $((seconds + 60)) probe echo "${common[@]}" --warmup 1 --rate "$rate"
    stop_server
    if jq -e '.generator_busiest_share < 0.75' "$out/probe.json" >/dev/null; then
      roomy=1
      break
    fi
    rate=$(((rate * 7 + 9) / 10))
  done
  # A probe may have been too fast.
  failed_runs=()
  ((roomy)) || die "the generator is more than 75 % busy at $rate messages/s: give it more" \
    "cores (--load-core), or a --rate"
  echo "the load is $rate messages/s: half of what a closed loop reached, or what leaves the" \
    "generator a quarter of its time" >&2
fi
names=()
for ((round = 1; round <= rounds; round++)); do
  for setting in "${settings[@]}"; do
    serve "$setting"
    load $((seconds + 60)) "$setting.$round" echo "${common[@]}" --warmup 1 --rate "$rate"
    stop_server
    names+=("$setting.$round")
  done
done

# summary SETTING: its medians, and how many rounds were better than the default's of that round.
summary() {
  local setting=$1 runs=() round
  for ((round = 1; round <= rounds; round++)); do
    runs+=("$out/default.$round.json" "$out/$setting.$round.json")
  done
  jq -s --arg setting "$setting" '
    def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
    [_nwise(2)] as $rounds
    | def mine(key): [$rounds[] | .[1][key]]; def base(key): [$rounds[] | .[0][key]];
    def gain(key): (mine(key) | median) / (base(key) | median);
    def always(key): all($rounds[]; .[1][key] < .[0][key]);
    {setting: $setting, p50: (mine("latency_p50_ns") | median),
     p99: (mine("latency_p99_ns") | median), p999: (mine("latency_p99_9_ns") | median),
     cpu: (mine("server_cpu_ns_each") | median), busy: (mine("generator_busiest_share") | max),
     p99_gain: gain("latency_p99_ns"), cpu_gain: gain("server_cpu_ns_each"),
     faster: (gain("latency_p99_ns") <= 0.9 and always("latency_p99_ns")),
     less: (gain("server_cpu_ns_each") <= 0.9 and always("server_cpu_ns_each"))}
    | . + {cheaper: (.less and .p99_gain <= 1.1)}' "${runs[@]}"
}
for setting in "${settings[@]}"; do summary "$setting"; done | jq -s . >"$out/summary.json"
jq -r '
  def ms: . / 1e4 | round / 100 | tostring; def percent: (. - 1) * 100 | round | tostring + " %";
  ["setting", "p50 ms", "p99 ms", "p99.9 ms", "p99 to default", "ns CPU/message",
   "CPU to default", "verdict"],
  (.[] | [.setting, (.p50 | ms), (.p99 | ms), (.p999 | ms), (.p99_gain | percent),
    (.cpu | round | tostring), (.cpu_gain | percent),
    if .setting == "default" then "-" elif .faster then "faster" elif .cheaper then "cheaper"
    elif .less then "less CPU for later answers" else "no difference that lasts" end]) | @tsv' "$out/summary.json" >"$out/table.tsv"
column -t -s $'\t' "$out/table.tsv"

# Of each factor the best value that is better at all; faster comes before cheaper.
jq '[.[1:][] | . + {factor: (.setting | split("=")[0]), value: (.setting | split("=")[1])}]
  | map(select(.faster or .cheaper)) | group_by(.factor)
  | map(sort_by(if .faster then 0 else 1 end, .p99) | .[0])' "$out/summary.json" >"$out/chosen.json"
echo
if [[ $(jq length "$out/chosen.json") == 0 ]]; then
  echo "Keep the defaults: over $rounds rounds at $rate messages/s no value was better by 10 % each time."
  flags="--shards $base_shards"
else
  jq -r '.[] | "Choose \(.setting): p99 \((.p99_gain - 1) * 100 | round) %, CPU per message "
    + "\((.cpu_gain - 1) * 100 | round) % to the default, in every round."' "$out/chosen.json"
  echo "Each was tried alone: run this again with all of them (tuned.toml) before you rely on it."
  flags="--shards $(jq -r --arg base "$base_shards" \
    '[.[] | select(.factor == "shards").value][0] // $base' "$out/chosen.json")"
fi
jq -r '.[] | select(.less and (.faster or .cheaper | not)) | "\(.setting) takes "
  + "\((1 - .cpu_gain) * 100 | round) % less CPU for a message and answers later (p99 "
  + "\(.p99 / 1e4 | round / 100) ms): yours to choose where that is worth it."' "$out/summary.json"
((rounds >= 3)) || echo "Fewer than 3 rounds: take this as a try of the script, not as an answer."
if jq -e 'any(.[]; .busy > 0.9)' "$out/summary.json" >/dev/null; then
  echo "The generator was its own limit in some runs: lower --rate or give it more --load-core."
fi
{
  echo "# Found by scripts/tune.sh at $rate messages/s, $connections connections, $size bytes."
  jq -r '[.[] | select(.factor != "steer" and .factor != "shards")] | if length > 0 then
    "[engine]", (.[] | "\(.factor) = \(.value)") else empty end' "$out/chosen.json"
  jq -r '.[] | select(.factor == "steer") | "[[listener]]\nsteer = \"\(.value)\""' "$out/chosen.json"
} >"$out/tuned.toml"
echo
echo "seawall serve --config $out/tuned.toml $flags"
cat "$out/tuned.toml"
curves=() bars=()
for setting in "${settings[@]}"; do
  bars+=("${setting/=/ }=$out/$setting.1.json")
  curves+=("${setting/=/ }=$out/$setting.1.hgrm")
done
plot percentiles --out "$out/tune.svg" --title "Echo latency by setting, $rate messages/s, round 1" \
  --divisor 1000 --y-label "latency (ms)" "${curves[@]}"
finish "${names[@]}"
