#!/usr/bin/env bash
# Installs Debian's Chromium, with which the tests open pages, unless there is a browser: at most 240 packages, 230 MB.
# Ubuntu's package is a stub of its snap: install a browser of your choice there.
set -euo pipefail
for name in "${KSEG_BROWSER:-}" chromium chromium-browser google-chrome google-chrome-stable; do
  if [ -n "$name" ] && command -v "$name" > /dev/null; then exit 0; fi
done
root=
[ "$(id -u)" = 0 ] || root="sudo -n"
export DEBIAN_FRONTEND=noninteractive
echo "installing chromium (once) ..." >&2
$root apt-get -qq -o Acquire::Retries=3 update
$root apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install -y --no-install-recommends chromium > /dev/null
