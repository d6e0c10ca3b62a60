#!/usr/bin/env bash
# The long runs behind scripts/check.sh: whole suites where that one runs a selection, fuzzing, and
# loads against one server. They take about three hours.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/check-long.sh [-h] [STEP...]

  STEP   peers, sandbox, autobahn, tls, epoll, simulation, fuzz, reload, hostile, soak
         (default: all, in this order)

Prints the closing lines of each. Exit status: 0 all is well, 1 a step failed.
TEXT
}

all=(peers sandbox autobahn tls epoll simulation fuzz reload hostile soak)
steps=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        peers | sandbox | autobahn | tls | epoll | simulation | fuzz | reload | hostile | soak)
            steps+=("$1") ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
((${#steps[@]})) || steps=("${all[@]}")

cd "$(dirname "$0")/.."
run() {
    case $1 in
        # The servers that scripts/compare.sh builds.
        peers) (cd bench/peers && cargo fmt --check && cargo check --quiet --locked) ;;
        sandbox) SEAWALL_SANDBOX=true cargo test --test cluster ;;
        autobahn)
            scripts/autobahn.sh && scripts/autobahn.sh --driver epoll && scripts/autobahn.sh --tls ;;
        tls) scripts/scan-tls.sh ;;
        epoll)
            SEAWALL_DRIVER=epoll cargo test --test abuse --test auth --test exports \
                --test protection --test hostile --test reload_fuzz --test documents \
                --test command_line --test doctor ;;
        # Twenty times the seeds of a common run.
        simulation)
            SEAWALL_SEEDS=20 cargo test --release --test simulation &&
                SEAWALL_SEEDS=20 cargo test --release --lib cluster::tests ;;
        fuzz) scripts/fuzz.sh -t 600 ;;
        reload) scripts/fuzz-reload.sh 600 ;;
        hostile) scripts/load-hostile.sh --seconds 20 ;;
        soak) scripts/soak.sh ;;
    esac
}

failed=()
for step in "${steps[@]}"; do
    echo "==> $step"
    run "$step" || failed+=("$step")
done
if ((${#failed[@]})); then
    echo "check-long.sh: FAILED: ${failed[*]}" >&2
    exit 1
fi
echo "check-long.sh: all of ${steps[*]} passed"
