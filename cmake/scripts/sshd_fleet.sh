# For examples/demo and tests/bench/run, sourced: a throwaway fleet of real sshds, each of which serves 16 addresses.
# shellcheck shell=bash

fleet_listeners=() # the processes of every fleet started
fleet_port=0       # of the fleet started last

# start_fleet DIRECTORY PREFIX HOSTS MAX_STARTUPS [COMMAND...]: PREFIX.1 … PREFIX.HOSTS, all on one port, logged in to as "sshpool". DIRECTORY is made; it then
# holds client_key, inventory (user@address:port) and known_hosts. COMMAND, if given, runs each sshd (`ip netns exec …`). The caller ends the listeners
# (end_with_children) and removes the directory, however this ends.
start_fleet() {
    local work=$1 prefix=$2 hosts=$3 max_startups=$4 uid gid sshd wrapper first last i address attempt port config count started
    shift 4
    sshd=$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v sshd) || fleet_failed "no sshd found (openssh-server)"
    wrapper=''
    for i in /usr/lib/*/libnss_wrapper.so /usr/lib64/libnss_wrapper.so /usr/lib/libnss_wrapper.so; do
        if [[ -r $i ]]; then wrapper=$i; fi
    done
    [[ -n $wrapper ]] || fleet_failed "no libnss_wrapper.so found (libnss-wrapper)"
    mkdir -p "$work"
    chmod 711 "$work"
    # sshd runs without privileges: as whoever runs this, or for root as a user number that nobody has. The user exists for this sshd alone.
    uid=$(id -u) gid=$(id -g)
    local become=(setpriv --pdeathsig KILL)
    if ((uid == 0)); then
        uid=$((61106 + $$ % 78)) gid=$uid
        become=(setpriv --pdeathsig KILL --reuid "$uid" --regid "$gid" --clear-groups)
    fi
    mkdir "$work/home" "$work/log"
    ssh-keygen -q -t ed25519 -N '' -C 'sshpool' -f "$work/host_key"
    ssh-keygen -q -t ed25519 -N '' -C 'sshpool' -f "$work/client_key"
    cp "$work/client_key.pub" "$work/authorized_keys"
    echo "sshpool:x:$uid:$gid::$work/home:/bin/sh" >"$work/passwd"
    echo "sshpool:x:$gid:" >"$work/group"
    if (($(id -u) == 0)); then chown "$uid:$gid" "$work/home" "$work/log" "$work/host_key"; fi

    for attempt in {1..20}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 40000))
        started=()
        for ((first = 1; first <= hosts; first += 16)); do
            last=$((first + 15 < hosts ? first + 15 : hosts))
            config=$work/sshd_config.$first
            for ((i = first; i <= last; ++i)); do echo "ListenAddress $prefix.$i:$port"; done >"$config"
            cat >>"$config" <<CONFIG
HostKey $work/host_key
AuthorizedKeysFile $work/authorized_keys
MaxStartups $max_startups
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
UseDNS no
PrintMotd no
CONFIG
            rm -f "$work/log/$first"
            "$@" env -i PATH=/usr/local/bin:/usr/bin:/bin LD_PRELOAD="$wrapper" NSS_WRAPPER_PASSWD="$work/passwd" NSS_WRAPPER_GROUP="$work/group" \
                "${become[@]}" "$sshd" -D -E "$work/log/$first" -f "$config" </dev/null >/dev/null 2>&1 &
            started+=($!)
            fleet_listeners+=($!)
        done
        for _ in {1..200}; do # ten seconds
            count=$(cat "$work"/log/* 2>/dev/null | grep -c 'Server listening on' || true)
            if ((count == hosts)); then break 2; fi
            if grep -qs 'Bind to port .* failed' "$work"/log/*; then break; fi
            sleep 0.05
        done
        for i in "${started[@]}"; do end_with_children "$i"; done
        if ((attempt == 20)) || ! grep -qs 'Bind to port .* failed' "$work"/log/*; then
            cat "$work"/log/* >&2 || true
            fleet_failed "the throwaway sshds do not start; their words are above"
        fi
    done
    for ((i = 1; i <= hosts; ++i)); do
        address=$prefix.$i
        echo "sshpool@$address:$port" >>"$work/inventory"
        echo "[$address]:$port $(cut -d ' ' -f 1,2 "$work/host_key.pub")" >>"$work/known_hosts"
    done
    # shellcheck disable=SC2034  # for those who source this
    fleet_port=$port
}
fleet_failed() {
    echo "$1" >&2
    exit 1
}
end_with_children() {
    local pid=$1 child
    for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true); do end_with_children "$child"; done
    # Not `wait`: a trap that interrupted a `wait` would now and then wait for ever, for a process that has ended.
    disown "$pid" 2>/dev/null || true
    for _ in {1..500}; do
        kill -KILL "$pid" 2>/dev/null || break
        sleep 0.01
    done
}
