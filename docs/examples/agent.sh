#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An agent of the device protocol in POSIX sh, for devices that cannot carry Python: see docs/protocol.md.
#
# It needs /proc, awk, setsid, and curl or the wget of busybox, and runs processes itself (backend process) or by
# scripts of SysV or busybox init (backend initd). A spec that needs more than a command is refused with a reason.
#   PRAETOR_AGENT_GATEWAY     URL of the gateway
#   PRAETOR_AGENT_DEVICE      name of this device (default: the host's)
#   PRAETOR_AGENT_TOKEN_FILE  file with the token, read for each request; or PRAETOR_AGENT_TOKEN
#   PRAETOR_AGENT_STATE_DIR   default /var/lib/praetor-agent-sh
#   PRAETOR_AGENT_INITD_DIR   default /etc/init.d
#   PRAETOR_AGENT_CA_BUNDLE   PEM file of CA certificates, for curl
#   PRAETOR_AGENT_HTTP        curl or wget (default: the first one found)
#
# busybox wget shows the token on its command line, rarely checks certificates, and hides Retry-After: prefer curl.
# shellcheck disable=SC1090,SC1091,SC2154 # what it sources is written by itself, with these variables
set -u && export LC_ALL=C && umask 077

GATEWAY=${PRAETOR_AGENT_GATEWAY:?write the URL of the gateway}
DEVICE=${PRAETOR_AGENT_DEVICE:-$(uname -n)}
STATE=${PRAETOR_AGENT_STATE_DIR:-/var/lib/praetor-agent-sh} # an absolute path
INITD=${PRAETOR_AGENT_INITD_DIR:-/etc/init.d}
HTTP=${PRAETOR_AGENT_HTTP:-$(command -v curl >/dev/null && echo curl || echo wget)}
WAIT=30        # seconds that a poll is held at most
PATIENCE=15    # seconds that an answer may take beyond that
UNSEEN_RETRY=12 # seconds after a 429 or 503 whose Retry-After is not seen; gateways ask for 1 or 2
BOOT=$(cat /proc/sys/kernel/random/boot_id)
PROCESS_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
TMP=$STATE/tmp
mkdir -p "$STATE/p" "$STATE/want" "$TMP" || exit 1

log() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >&2; }

# Print WORD if it is a number of at most five digits, else DEFAULT: nothing else may get into arithmetic.
number() { case $1 in '' | *[!0-9]* | 0?* | ??????*) echo "$2" ;; *) echo "$1" ;; esac; }

# Seconds since boot: they never go back.
now() { sed 's/\..*//' /proc/uptime; }

# Read a desired state and write, for each item, assignments for this shell to the file DIR/UID. Fail, and write
# nothing, if it is not JSON, cut off, or of another device.
read_desired() { # FILE DIR
    awk -v device="$DEVICE" -v dir="$2" '
    function next_token() {
        if (!match(rest, lexeme)) fail()
        token = substr(rest, 1, RLENGTH); rest = substr(rest, RLENGTH + 1)
        sub(/^[ \t\r\n]+/, "", token)
    }
    function fail() { exit 1 }
    function hex(digits,    at, n) {
        for (at = 1; at <= 4; at++) n = n * 16 + index("123456789abcdef", tolower(substr(digits, at, 1)))
        return n
    }
    function utf8(code,    out, first) {
        if (code < 128) return sprintf("%c", code)
        for (first = 64; code >= first; code = int(code / 64)) { out = sprintf("%c", 128 + code % 64) out; first /= 2 }
        return sprintf("%c", 256 - 2 * first + code) out
    }
    function text(quoted,    out, at, c, code) {
        if (quoted !~ /^"/) fail()
        quoted = substr(quoted, 2, length(quoted) - 2)
        while ((at = index(quoted, "\\")) > 0) {
            out = out substr(quoted, 1, at - 1)
            c = substr(quoted, at + 1, 1); quoted = substr(quoted, at + 2)
            if (c != "u") { out = out (c in escapes ? escapes[c] : c); continue }
            code = hex(substr(quoted, 1, 4)); quoted = substr(quoted, 5)
            if (code >= 55296 && code < 56320 && quoted ~ /^\\u[dD][c-fC-F]/) {
                code = 65536 + (code - 55296) * 1024 + hex(substr(quoted, 3, 4)) - 56320
                quoted = substr(quoted, 7)
            }
            if (code == 0) fail()  # no argument can contain it
            out = out utf8(code)
        }
        return out quoted
    }
    function value(path,    closing, key, count) {
        if (token ~ /^[{[]/) {
            kind[path] = token
            closing = token == "{" ? "}" : "]"
            for (next_token(); token != closing;) {
                key = ++count
                if (closing == "}") { key = text(token); next_token(); if (token != ":") fail(); next_token() }
                if (index(key, SUBSEP)) fail()
                value(path SUBSEP key)
                if (token == ",") next_token(); else if (token != closing) fail()
            }
            size[path] = count + 0
        } else {
            raw[path] = token
            if (token != "null") leaf[path] = token ~ /^"/ ? text(token) : token
        }
        if (path != "") next_token()
    }
    function quote(word,    count, parts, out, at) {
        count = split(word, parts, "\047"); out = parts[1]
        for (at = 2; at <= count; at++) out = out "\047\\\047\047" parts[at]
        return "\047" out "\047"
    }
    function put(name, word) { lines = lines name "=" quote(word) "\n" }
    function words(path,    at, out) {
        for (at = 1; at <= size[path]; at++) { no("command", raw[path, at] !~ /^"/); out = out " " quote(leaf[path, at]) }
        return out
    }
    function no(name, holds) { if (holds) lacks = lacks " " name }
    function given(path, otherwise) { return path in leaf ? leaf[path] : otherwise }
    function quoted(path) { return raw[path] ~ /^"/ ? raw[path] : "\"\"" }
    BEGIN {
        escapes["n"] = "\n"; escapes["t"] = "\t"; escapes["r"] = "\r"; escapes["b"] = "\b"; escapes["f"] = "\f"
        digit = "[0-9A-Fa-f]"; escape = "\\\\([\"\\\\/bfnrt]|u" digit digit digit digit ")"
        string = "\"([^\"\\\\\001-\037]|" escape ")*\""
        lexeme = "^[ \t\r\n]*(" string "|-?[0-9][-+.eE0-9]*|true|false|null|[][{}:,])"
    }
    { rest = rest $0 "\n" }
    END {
        next_token(); value("")
        if (rest ~ /[^ \t\r\n]/ || kind["", "items"] != "[" || leaf["", "deviceName"] != device) fail()
        for (at = 1; at <= size["", "items"]; at++) {
            uid = leaf["", "items", at, "uid"]
            if (uid !~ /^[A-Za-z0-9][-.A-Za-z0-9]*$/ || length(uid) > 200 || raw["", "items", at, "name"] !~ /^"/) fail()
        }
        for (at = 1; at <= size["", "items"]; at++) {
            item = SUBSEP "items" SUBSEP at
            spec = item SUBSEP "spec"; run = spec SUBSEP "execution"; lines = lacks = out = ""
            put("json_name", quoted(item SUBSEP "name")); put("json_namespace", quoted(item SUBSEP "namespace"))
            put("hash", leaf[item, "specHash"]); put("json_hash", quoted(item SUBSEP "specHash"))
            put("readable", kind[run] == "{" ? "yes" : ""); put("backend", leaf[run, "backend"])
            policy = given(spec SUBSEP "restartPolicy", "Always"); put("policy", policy)
            grace = given(run SUBSEP "terminationGracePeriodSeconds", 30); put("grace", grace)
            place = given(run SUBSEP "workingDir", "/"); put("directory", quote(place))
            for (n = 1; n <= size[run, "env"]; n++) {
                no("env", leaf[run, "env", n, "name"] !~ /^[^=]+$/)
                out = out " " quote(leaf[run, "env", n, "name"] "=" leaf[run, "env", n, "value"])
            }
            put("environment", out); put("command", words(run SUBSEP "command") words(run SUBSEP "args"))
            no("artifact", (spec, "artifact") in kind); no("healthCheck", (spec, "healthCheck") in kind)
            no("postCheck", (spec, "postCheck") in kind); no("confirm", (spec, "confirm") in kind)
            no("resources", (run, "resources") in kind); no("user", (run, "user") in leaf)
            no("backend", leaf[run, "backend"] !~ /^(process|initd)$/); no("workingDir", place !~ /^\//)
            no("command", leaf[run, "command", 1] !~ /^[^=]+$/)  # env(1) would set a variable
            no("restartPolicy", policy !~ /^(Always|OnFailure|Never)$/)
            no("terminationGracePeriodSeconds", grace !~ /^(0|[1-9][0-9]?[0-9]?[0-9]?)$/)
            put("lacks", lacks)
            file = dir "/" leaf[item, "uid"]; printf "%s", lines > file; close(file)
        }
    }' "$1"
}

# Print the number, word or text of the field NAME of a flat JSON object.
field() { sed -n 's/.*"'"$2"'" *: *"\{0,1\}\([A-Za-z0-9.-]*\).*/\1/p' "$1" | head -n 1; }

# Return whether the process of DIR runs; set pid, group and apart. A pid alone may be another process's by now.
alive() {
    pid='' ticks='' group='' boot=''
    { read -r pid ticks group boot <"$1/run"; } 2>/dev/null
    [ -n "$pid" ] && [ "$boot" = "$BOOT" ] || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    # shellcheck disable=SC2086  # it is a list of words
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "$1" != X ] && [ "${20}" = "$ticks" ] || return 1
    if [ "$3" = "$group" ]; then apart=''; else apart=$pid; fi # it left its session
}

# Write the script that runs the process of DIR in a session of its own, and records how it began and ended: it goes on
# when this agent ends. TERM reaches the whole session, and the script waits for the process all the same.
write_job() {
    cat >"$1/job" <<EOF
cd '$1' || exit 1
umask 022
rm -f exit
trap : TERM
( cd $directory && exec env -i PATH=$PROCESS_PATH $environment $command ) </dev/null >>log 2>&1 &
pid=\$!
stat=\$(cat "/proc/\$pid/stat")
set -- \${stat##*) }
echo "\$pid \${20} \$\$ \$(cat /proc/sys/kernel/random/boot_id)" >run.new && mv run.new run
while wait "\$pid"; code=\$?; kill -0 "\$pid" 2>/dev/null; do :; done
echo "\$code" >exit.new && mv exit.new exit
EOF
}

# Write the init script that starts the process of DIR, also at boot without this agent.
write_script() {
    script=$INITD/praetor-$uid
    cat >"$script.new" <<EOF
#!/bin/sh
### BEGIN INIT INFO
# Provides:          praetor-$uid
# Required-Start:    \$local_fs
# Required-Stop:     \$local_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
### END INIT INFO
BOOT=\$(cat /proc/sys/kernel/random/boot_id)
$(sed -n '/^alive()/,/^}/p' "$SELF")
case \$1 in
start) alive '$1' || { setsid sh '$1/job' >/dev/null 2>&1 & } ;;
stop) if alive '$1'; then kill -TERM "-\$group" \$apart; fi ;;
status) alive '$1' ;;
esac
EOF
    chmod 755 "$script.new" && mv "$script.new" "$script" && at_boot defaults 95 05
}

# Have init start the script at boot, or with `remove` no longer.
at_boot() {
    [ "$INITD" = /etc/init.d ] || return 0
    if command -v update-rc.d >/dev/null; then update-rc.d -f "praetor-$uid" "$@" >/dev/null 2>&1
    elif [ "$1" != remove ]; then ln -sf "praetor-$uid" "$INITD/S95praetor-$uid"; fi
}

remove_script() {
    [ ! -e "$INITD/praetor-$uid" ] || at_boot remove
    rm -f "$INITD/praetor-$uid" "$INITD/S95praetor-$uid"
}

# Start the process of DIR as the assignments in force say.
start() {
    log "start $json_name"
    rm -f "$1/run" "$1/exit" "$1/stopping"
    write_job "$1"
    date -u +%Y-%m-%dT%H:%M:%SZ >"$1/since"
    if [ "$backend" = initd ]; then write_script "$1" && "$INITD/praetor-$uid" start
    else remove_script; setsid sh "$1/job" >/dev/null 2>&1 & fi
    for _ in 1 2 3 4 5; do [ -e "$1/run" ] || sleep 1; done
}

# Ask the process of DIR to end; once its grace period is over, force it.
stop() {
    if [ ! -e "$1/stopping" ]; then
        log "stop $json_name" && echo "$(($(now) + grace))" >"$1/stopping"
        kill -TERM "-$group" ${apart:+"$apart"} 2>/dev/null
    elif [ "$(now)" -gt "$(cat "$1/stopping")" ]; then kill -KILL "-$group" ${apart:+"$apart"} 2>/dev/null; fi
}

# Bring the process of DIR, whose uid is $uid, closer to what is desired. What runs is what DIR/ran says.
supervise() {
    want=$STATE/want/$uid readable='' lacks='' hash='' json_hash='""' ended='' usable=''
    [ ! -e "$want" ] || . "$want"
    wanted=$hash lacking=$lacks
    [ -n "$lacks" ] || usable=$readable
    [ ! -e "$1/ran" ] || . "$1/ran"
    if alive "$1"; then
        if [ ! -e "$want" ] || { [ -n "$usable" ] && [ "$wanted" != "$hash" ]; }; then stop "$1"; fi
    elif [ ! -e "$want" ]; then
        remove_script && rm -rf "$1" && return
    elif [ -n "$usable" ] && { [ ! -e "$1/ran" ] || [ "$wanted" != "$hash" ]; }; then
        cp "$want" "$1/ran" && . "$1/ran"
        echo 0 >"$1/count" && rm -f "$1/again" && start "$1"
    elif [ -e "$1/ran" ]; then
        ended=$(number "$(cat "$1/exit" 2>/dev/null)" 137) # without a file: by force, or by a power cut
        if runs_again; then restart "$1"; fi
    fi
    observe "$1"
}

# Print 1, 2, 4 … 60 seconds for a COUNT of 0, 1, 2 …
doubled() { if [ "$1" -gt 5 ]; then echo 60; else echo "$((1 << $1))"; fi; }

# Start what ended again, once its delay is over.
restart() {
    count=$(number "$(cat "$1/count")" 0)
    if [ ! -e "$1/again" ]; then echo "$(($(now) + $(doubled "$count")))" >"$1/again"
    elif [ "$(now)" -ge "$(cat "$1/again")" ]; then
        echo "$((count + 1))" >"$1/count" && rm -f "$1/again" && start "$1"
    fi
}

runs_again() { [ "$policy" = Always ] || { [ "$policy" = OnFailure ] && [ "$ended" != 0 ]; }; }

# Write the observation of the process of DIR to DIR/seen.
observe() {
    about="\"namespace\":$json_namespace,\"name\":$json_name,\"uid\":\"$uid\",\"observedSpecHash\":${json_hash:-\"\"}"
    [ -z "$lacking" ] ||
        about="$about,\"pendingReason\":\"InvalidSpec\",\"pendingMessage\":\"agent.sh does not take this:$lacking\""
    if alive "$1"; then
        state="\"processStarted\":true,\"healthy\":true,\"pid\":$pid,\"startTime\":\"$(cat "$1/since")\""
    elif [ -z "$ended" ]; then state='"processStarted":false'
    else
        completed=true healthy=false
        if runs_again; then completed=false; elif [ "$ended" = 0 ]; then healthy=true; fi
        state="\"processStarted\":$completed,\"healthy\":$healthy,\"exitCode\":$ended"
    fi
    printf '{%s,%s,"restartCount":%s}' "$about" "$state" "$(number "$(cat "$1/count" 2>/dev/null)" 0)" >"$1/seen"
}

# Send a request in the background, for ACTION, with a file to post. Headers are in $etag and $wait. The answer goes to
# the files ACTION.head and ACTION.body; $child is the pid.
send() {
    if [ -n "${PRAETOR_AGENT_TOKEN_FILE-}" ]; then PRAETOR_AGENT_TOKEN=$(cat "$PRAETOR_AGENT_TOKEN_FILE"); fi
    url=${GATEWAY%/}/v1/devices/$DEVICE/$1 head=$TMP/$1.head body=$TMP/$1.body && rm -f "$head" "$body"
    if [ "$HTTP" = curl ]; then
        {
            echo "header = \"X-Device-Token: ${PRAETOR_AGENT_TOKEN-}\""
            if [ -n "$etag" ]; then echo "header = \"If-None-Match: $(printf %s "$etag" | sed 's/["\\]/\\&/g')\""; fi
            if [ -n "$wait" ]; then echo "header = \"Prefer: wait=$wait\""; fi
            if [ "$1" = report ]; then echo "data-binary = \"@$2\""; fi
            if [ -n "${PRAETOR_AGENT_CA_BUNDLE-}" ]; then echo "cacert = \"$PRAETOR_AGENT_CA_BUNDLE\""; fi
        } >"$TMP/$1.curl"
        curl -q -sS -K "$TMP/$1.curl" -D "$head" -o "$body" "$url" 2>"$TMP/$1.log" &
    else
        if [ "$1" = report ]; then set -- --post-file "$2"; else set --; fi
        if command -v busybox >/dev/null; then set -- busybox wget "$@"; else set -- wget "$@"; fi
        "$@" --header "X-Device-Token: ${PRAETOR_AGENT_TOKEN-}" ${etag:+--header "If-None-Match: $etag"} \
            ${wait:+--header "Prefer: wait=$wait"} -S -O "$body" "$url" 2>"$head" &
    fi
    child=$!
}

# Set status, and retry to the seconds of Retry-After, from the answer to ACTION.
read_answer() {
    status=$(sed -n 's/^ *HTTP\/[0-9.]* \([0-9]*\).*/\1/p' "$TMP/$1.head" 2>/dev/null | tail -n 1)
    retry=$(sed -n 's/^ *[Rr]etry-[Aa]fter: *\([0-9]*\).*/\1/p' "$TMP/$1.head" 2>/dev/null | tail -n 1)
    case $status in 429 | 503) retry=$(number "$retry" "$UNSEEN_RETRY") ;; *) retry='' ;; esac
}

# Print the seconds to wait after FAILURES in a row: as long as the gateway asks, by a clock of whole seconds.
backoff() { if [ -n "$retry" ]; then echo "$((retry + 1))"; else doubled "$(($1 - 1))"; fi; }

# Take the answer of a poll: only a 200 that can be read whole changes what is desired.
polled() {
    read_answer desired
    if [ "$status" = 304 ]; then poll_failures=0; else poll_failures=$((poll_failures + 1)); fi
    rm -rf "$STATE/new"
    if [ "$status" = 200 ] && mkdir "$STATE/new" && read_desired "$TMP/desired.body" "$STATE/new"; then
        rm -rf "$STATE/etag" "$STATE/want" && mv "$STATE/new" "$STATE/want" # without an etag nothing is touched
        sed -n 's/^ *[Ee][Tt]ag: *\("[^"]*"\).*/\1/p' "$TMP/desired.head" >"$STATE/etag.new"
        mv "$STATE/etag.new" "$STATE/etag" && poll_failures=0
    fi
    poll_at=$(now)
    if [ "$poll_failures" = 0 ]; then return; fi
    log "the desired state cannot be had: status $status" && poll_at=$((poll_at + $(backoff "$poll_failures")))
}

# Set list to the observations that changed since they were acknowledged, at most as many as a report may have.
collect() {
    list='' number=0
    for dir in "$STATE"/p/*; do
        [ -e "$dir/seen" ] && ! cmp -s "$dir/seen" "$dir/acked" && [ "$number" -lt 64 ] || continue
        cp "$dir/seen" "$dir/sent"
        list="$list${list:+,}$(cat "$dir/sent")" number=$((number + 1))
    done
}

report() {
    {
        printf '{"agentVersion":"agent.sh 1","heartbeat":true,'
        printf '"bootID":"%s","seq":%s,' "$BOOT" "$(sed 's/\.\([0-9]*\) .*/\1/' /proc/uptime)"
        if [ -z "$told" ]; then printf '"facts":{"os":"%s","arch":"%s"},' "$(uname -s)" "$(uname -m)"; fi
        printf '"observations":[%s]}' "$list"
    } >"$TMP/report"
    find "$STATE/p" -name log -size +2048 -exec cp /dev/null {} \; # beyond 1 MiB
    etag='' wait='' reported_at=$(now)
    send report "$TMP/report"
    report_pid=$child report_ends=$((reported_at + PATIENCE))
}

reported() {
    read_answer report
    if [ "$status" = 200 ] && [ "$(field "$TMP/report.body" ack)" = true ]; then
        report_failures=0 told=yes
        interval=$(number "$(field "$TMP/report.body" heartbeatIntervalSeconds)" 15)
        for dir in "$STATE"/p/*; do [ ! -e "$dir/sent" ] || mv "$dir/sent" "$dir/acked"; done
        [ "$(field "$TMP/report.body" resync)" != true ] || { told='' && rm -f "$STATE"/p/*/acked; }
        report_at=$((reported_at + interval))
    else
        log "report: status $status" && rm -f "$STATE"/p/*/sent
        report_failures=$((report_failures + 1))
        quiet_until=$(($(now) + $(backoff "$report_failures"))) report_at=0
    fi
}

SELF=$0 told='' poll_pid='' report_pid=''
poll_failures=0 report_failures=0 poll_at=0 report_at=0 quiet_until=0 poll_ends=0 report_ends=0
trap 'kill $poll_pid $report_pid 2>/dev/null; exit 0' TERM INT
# The gateway may have forgotten what it had; the device may have booted, and counts seconds anew.
rm -f "$STATE"/p/*/acked "$STATE"/p/*/sent "$STATE"/p/*/again "$STATE"/p/*/stopping
log "agent.sh runs for $DEVICE, by $HTTP"
while :; do
    time=$(now)
    if [ -n "$poll_pid" ]; then
        [ "$time" -le "$poll_ends" ] || kill "$poll_pid" 2>/dev/null
        kill -0 "$poll_pid" 2>/dev/null || { poll_pid='' && polled; }
    elif [ "$time" -ge "$poll_at" ]; then
        etag=$(cat "$STATE/etag" 2>/dev/null) wait=$WAIT
        send desired
        poll_pid=$child poll_ends=$((time + WAIT + PATIENCE))
    fi
    if [ -s "$STATE/etag" ]; then
        for want in "$STATE"/want/*; do [ ! -e "$want" ] || mkdir -p "$STATE/p/${want##*/}"; done
        for dir in "$STATE"/p/*; do uid=${dir##*/}; [ ! -d "$dir" ] || supervise "$dir"; done
    fi
    if [ -n "$report_pid" ]; then
        [ "$time" -le "$report_ends" ] || kill "$report_pid" 2>/dev/null
        kill -0 "$report_pid" 2>/dev/null || { report_pid='' && reported; }
    elif [ "$time" -ge "$quiet_until" ]; then
        collect
        if [ -n "$list" ] || [ "$time" -ge "$report_at" ]; then report; fi
    fi
    sleep 1
done
