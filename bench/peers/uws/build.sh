#!/usr/bin/env bash
# Builds the uWebSockets peer: uws/echo in the given folder (default: target/peers/uws).
#
# uWebSockets itself is in no package registry. The Python package socketify ships it as a shared
# library with its C interface, over libuv instead of its own epoll loop. echo.c calls that
# interface, so no Python runs; libuv comes from the distribution where it is not installed.
set -euo pipefail

VERSION=0.0.31
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../target}
out=${1:-$target/peers/uws}

[[ $(uname -sm) == "Linux x86_64" ]] ||
  { echo "build.sh: the library is shipped for x86-64 Linux only" >&2; exit 1; }
mkdir -p "$out"
cd "$out"
pip3 download --quiet --no-deps --no-binary :all: --dest . "socketify==$VERSION" ||
  { echo "build.sh: socketify $VERSION cannot be downloaded: is pip3 configured?" >&2; exit 1; }
tar xzf "socketify-$VERSION.tar.gz" --strip-components=3 \
  "socketify-$VERSION/src/socketify/libsocketify_linux_amd64.so"
mv libsocketify_linux_amd64.so libsocketify.so
if ! ldconfig -p | grep -q 'libuv\.so\.1 '; then
  apt-get download --quiet libuv1 ||
    { echo "build.sh: libuv1 cannot be downloaded: install it" >&2; exit 1; }
  dpkg-deb --extract libuv1_*.deb libuv
  cp -P libuv/usr/lib/x86_64-linux-gnu/libuv.so.1* .
fi
gcc -O2 -Wall -Wextra -Werror -o echo "$here/echo.c" -L. -l:libsocketify.so \
  -Wl,--allow-shlib-undefined -Wl,--disable-new-dtags -Wl,-rpath,'$ORIGIN'
echo "built $out/echo"
