#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# CUMULUS-AUTOPROVISIONING (the word that Cumulus Linux looks for)
#
# The first boot of a switch: installs praetor-agent, with the device's name and token from server.py. The switch's
# zero-touch provisioning runs it as root, and may run it again: what is done already is not done twice.
# It needs Python 3.11 or later, and curl or wget; that of busybox checks no certificate. See docs/provisioning.md.
#
# Write your own values into the next four lines.
SERVER=${PRAETOR_ZTP_SERVER:-https://provision.example:8444}
GATEWAY=${PRAETOR_ZTP_GATEWAY:-https://gateway.example:8443}
AGENT_SHA256=${PRAETOR_ZTP_AGENT_SHA256:-} # of praetor-agent.pyz; empty when the image has praetor-agent
CA=${PRAETOR_ZTP_CA:-}                     # PEM file in the image with the authorities of both; empty for public ones

FOLDER=${PRAETOR_ZTP_FOLDER:-/var/lib/praetor-ztp}
ROOT=${PRAETOR_ZTP_ROOT:-/opt/praetor-agent}
TRIES=${PRAETOR_ZTP_TRIES:-60} # of each request, 5 s apart: the network may not be up
set -u && export LC_ALL=C && umask 077

log() { echo "praetor first boot: $*" >&2; }
die() { log "$*" && exit 1; }

# Print the serial number, by the first of the usual sources that has one; else the host's name.
identity() {
    for source in "decode-syseeprom -s" "onie-syseeprom -g 0x23" "cat /sys/class/dmi/id/product_serial" \
        "cat /proc/device-tree/serial-number" "uname -n"; do
        # shellcheck disable=SC2086 # a command and its arguments
        found=$($source 2>/dev/null | tr -cd 'A-Za-z0-9._-')
        [ -z "$found" ] || { echo "$found" && return; }
    done
}

# Write the body of PATH into FILE, and the status, or what went wrong, into FILE.status.
request() {
    if command -v curl >/dev/null; then
        curl --silent --show-error --max-time 300 ${CA:+--cacert "$CA"} --write-out '%{http_code}' --output "$2" \
            "$SERVER/$1" >"$2.status" 2>&1 && grep -q '^200$' "$2.status"
    else
        wget -O "$2" "$SERVER/$1" >"$2.status" 2>&1 # busybox crashes on -T
    fi
}

# Fetch PATH into FILE whole or not at all. Tried again unless the server has an answer that stays the same.
fetch() {
    left=$TRIES
    until request "$1" "$2.part"; do
        said=$(tr -d '\r' <"$2.part.status" | grep . | tail -n 1)
        case $said in
        404 | *"404 Not Found"* | *"ERROR 404"*)
            die "$SERVER/$1: not found; add the key of this device to the file devices, or the file to files/" ;;
        410 | *"410 Gone"* | *"ERROR 410"*)
            die "$SERVER/$1: was given out before; if not to this device, raise its credentialEpoch" ;;
        esac
        left=$((left - 1))
        [ "$left" -gt 0 ] || die "$SERVER/$1: $said"
        log "$SERVER/$1: $said; trying again"
        sleep 5
    done
    mv "$2.part" "$2" && rm -f "$2.part.status"
}

[ ! -e "$ROOT/current" ] || [ -d "$FOLDER" ] || { log "the agent is installed in $ROOT" && exit 0; }
[ -z "$CA" ] || command -v curl >/dev/null || die "CA needs curl, which is missing"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "python3 is missing or older than 3.11"
mkdir -p "$FOLDER" || die "$FOLDER cannot be made"
cd "$FOLDER" || exit 1

# The agent comes before the token, which is given out once.
if [ -n "$AGENT_SHA256" ]; then
    [ -e praetor-agent.pyz ] || fetch files/praetor-agent.pyz praetor-agent.pyz
    found=$(sha256sum <praetor-agent.pyz | cut -d ' ' -f 1)
    if [ "$found" != "$AGENT_SHA256" ]; then
        rm -f praetor-agent.pyz
        die "praetor-agent.pyz has the SHA-256 $found, not $AGENT_SHA256; nothing was installed"
    fi
    set -- python3 praetor-agent.pyz
elif command -v praetor-agent >/dev/null; then
    set -- praetor-agent
else
    die "there is no praetor-agent on PATH; write AGENT_SHA256"
fi

key=${PRAETOR_ZTP_KEY:-$(identity)}
[ -e device ] || fetch "device/$key" device
[ -e token ] || fetch "token/$key" token
sync

"$@" install --root "$ROOT" --gateway "$GATEWAY" --device "$(cat device)" --token-file token \
    ${CA:+--ca-bundle "$CA"} >&2 || die "praetor-agent install failed, see above; run this script again"
cd / && rm -rf "$FOLDER"
log "done"
