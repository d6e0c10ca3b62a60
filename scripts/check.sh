#!/usr/bin/env bash
# All checks, in the order in which they fail soonest: format, dependencies, lints, tests,
# documentation, the release build, its instructions for a message, and a selection of the Autobahn
# suite.
#
# Installs what the tests need and the machine lacks: packages of the distribution as root, all
# else into .cache.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/check.sh [-h] [--install]

  --install   installs what the tests need, and stops

Needs cargo with rustfmt and clippy (rust-version of Cargo.toml or newer), gcc, node with npm, and
python3. Packages come from the registries that apt, pip, npm and cargo are configured with.
Stops at the first failure. Exit status: 0 all is well.
TEXT
}

install_only=0
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --install) install_only=1 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

cd "$(dirname "$0")/.."
SECONDS=0
step_name=start
finished=0
# Builds that run beside other steps, for these mostly wait: on registries, or on what they test.
deny_build=
release_build=
summary() {
    if ((finished)); then return; fi
    # They may have ended.
    kill $deny_build $release_build 2>/dev/null || true
    echo "check.sh: FAILED at: $step_name, after $SECONDS s" >&2
}
trap summary EXIT

step() {
    step_name=$1
    echo "==> $1 ($SECONDS s)"
}

need() {
    command -v "$1" >/dev/null || {
        echo "check.sh: $1 is missing: $2" >&2
        exit 1
    }
}

# Commands and files that tests need, and the package that brings each.
packages() {
    [[ -x /usr/bin/chromium ]] || echo chromium
    [[ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ]] || echo fonts-dejavu-core
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v gcc >/dev/null || echo gcc libc6-dev
    command -v shellcheck >/dev/null || echo shellcheck
    command -v nginx >/dev/null || echo nginx-light
    command -v redis-server >/dev/null || echo redis-server
    [[ -x /usr/sbin/haproxy ]] || echo haproxy
    command -v pebble >/dev/null || echo pebble
    command -v openssl >/dev/null || echo openssl
    command -v testssl >/dev/null || echo testssl.sh
    command -v valgrind >/dev/null || echo valgrind
    command -v jq >/dev/null || echo jq
    command -v ss >/dev/null || echo iproute2
    command -v column >/dev/null || echo bsdextrautils
    [[ -x /usr/bin/go && -d /usr/share/gocode/src/github.com/gorilla/websocket ]] ||
        echo golang-go golang-github-gorilla-websocket-dev
    [[ -x /usr/bin/php ]] || echo php-cli
    command -v systemd-analyze >/dev/null || echo systemd
    command -v prometheus >/dev/null && command -v promtool >/dev/null || echo prometheus
}

install_packages() {
    local wanted
    read -r -d '' -a wanted < <(packages && printf '\0')
    ((${#wanted[@]})) || return 0
    local get=(apt-get install -y -qq --no-install-recommends "${wanted[@]}")
    if ((EUID != 0)); then
        echo "check.sh: packages are missing: run as root: ${get[*]}" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Tests start what they need themselves: no package may start or enable a service.
    local policy=/usr/sbin/policy-rc.d own_policy=0
    if [[ ! -e $policy ]]; then
        own_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    local status=0
    # The lists may be missing, or name versions that are gone.
    "${get[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${get[@]}" >/dev/null; } || status=$?
    ((own_policy)) && rm -f "$policy"
    if [[ " ${wanted[*]} " == *" prometheus "* ]] && command -v systemctl >/dev/null; then
        # Without systemd running there may be nothing to disable.
        systemctl --quiet disable --now prometheus >/dev/null 2>&1 || true
    fi
    return "$status"
}

# Installs once, and again when the file that names the versions changes.
# installed FOLDER VERSIONS-FILE
installed() { cmp -s "$2" "$1/installed"; }

install_clients() {
    local versions=tests/clients/requirements.txt
    if ! installed .cache/venv "$versions"; then
        rm -rf .cache/venv
        python3 -m venv .cache/venv
        .cache/venv/bin/pip install --quiet --disable-pip-version-check -r "$versions"
        cp "$versions" .cache/venv/installed
    fi
    versions=tests/cluster/requirements.txt
    if ! installed .cache/engines "$versions"; then
        rm -rf .cache/engines
        .cache/venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
            --target .cache/engines -r "$versions"
        cp "$versions" .cache/engines/installed
    fi
    versions=tests/clients/package.json
    if ! installed .cache/node "$versions"; then
        rm -rf .cache/node
        mkdir -p .cache/node
        cp "$versions" .cache/node/package.json
        (cd .cache/node && npm install --no-audit --no-fund --loglevel=error)
        cp "$versions" .cache/node/installed
    fi
}

DENY_VERSION=0.20.2
DENY=.cache/cargo-deny/bin/cargo-deny
# Builds it for some minutes, once.
install_deny() {
    [[ -x $DENY && $("$DENY" --version) == *" $DENY_VERSION" ]] && return
    echo "check.sh: building cargo-deny $DENY_VERSION, which takes minutes, beside other steps"
    # Unoptimised: it is run for seconds, and optimising would double the build.
    cargo install --quiet --debug --locked --version "$DENY_VERSION" --root .cache/cargo-deny cargo-deny
}

# Licences, duplicates and sources need no network; advisories need their database.
deny() {
    local deny=("$PWD/$DENY" --config "$PWD/.cargo/deny.toml" "$@")
    "${deny[@]}" check --deny warnings licenses bans sources
    local log
    log=$(mktemp)
    if timeout 60 "${deny[@]}" fetch db >"$log" 2>&1; then
        "${deny[@]}" check --deny warnings --disable-fetch advisories
    else
        echo "check.sh: NOT CHECKED: advisories, for their database cannot be fetched:" >&2
        head -n 5 "$log" >&2
    fi
    rm -f "$log"
}

step "tools"
need cargo "install the Rust toolchain, with rustfmt and clippy"
mkdir -p .cache
install_packages
need python3 "apt-get install python3"
install_deny &
deny_build=$!
install_clients
scripts/autobahn.sh --install
wait "$deny_build"
if ((install_only)); then
    finished=1
    echo "check.sh: everything is installed"
    exit 0
fi

step "cargo fmt"
cargo fmt --all --check
step "cargo deny"
deny
step "cargo clippy"
cargo clippy --quiet --workspace --all-targets -- -D warnings
step "cargo test"
cargo test --quiet --workspace --no-run
nice -n 19 cargo build --quiet --release --workspace &
release_build=$!
cargo test --workspace
# A call or file that the sandbox forgets shows here: the server as every test knows it, inside.
step "cargo test, in the sandbox"
SEAWALL_SANDBOX=true cargo test --test server --test hub --test auth --test exports \
    --test protection --test limits --test pusher
# Without reloads: in the sandbox, other ports need a restart.
SEAWALL_SANDBOX=true cargo test --test backend -- --skip reload
# Every way to the engine; the other tests of the cluster follow in check-long.sh.
SEAWALL_SANDBOX=true cargo test --test cluster -- commands:: nodes:: presence:: start::
# The suites that reach every part of an engine; the others follow in check-long.sh.
step "cargo test, on epoll"
SEAWALL_DRIVER=epoll cargo test --test server --test hub --test clients --test limits \
    --test sandbox --test pusher
step "cargo doc"
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --document-private-items
step "cargo build --release"
wait "$release_build"
step "instructions"
scripts/instructions.sh --no-build --compare bench/instructions.json \
    --rows echo-pipelined,echo-single,fanout-alone,fanout-batch
step "Autobahn suite, quick selection"
scripts/autobahn.sh --quick
scripts/autobahn.sh --quick --driver epoll
scripts/autobahn.sh --quick --tls

finished=1
echo "check.sh: all checks passed in $SECONDS s"
