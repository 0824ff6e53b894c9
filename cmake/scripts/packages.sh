# For tests/run and examples/demo, sourced: makes sure that the programs and libraries they need are there.
# shellcheck shell=bash

# need_packages PACKAGE...: installs what is missing (Debian and Ubuntu). Elsewhere, or with SSHPOOL_NO_INSTALL=1, names what is missing and stops.
need_packages() {
    local package missing=() as_root=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        if [[ ${SSHPOOL_NO_INSTALL:-} == 1 ]]; then return 0; fi
        echo "This is not Debian or Ubuntu. Install what these packages hold, then say --no-install:" >&2
        printf '  %s\n' "$@" >&2
        exit 3
    fi
    for package in "$@"; do
        if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) != installed ]]; then missing+=("$package"); fi
    done
    if ((${#missing[@]} == 0)); then return 0; fi
    if [[ ${SSHPOOL_NO_INSTALL:-} == 1 ]]; then
        echo "missing packages: ${missing[*]}" >&2
        exit 3
    fi
    if [[ $(id -u) != 0 ]]; then
        if ! command -v sudo >/dev/null; then
            echo "Neither root nor sudo here. Install these packages first: ${missing[*]}" >&2
            exit 3
        fi
        as_root=(sudo)
    fi
    echo "Installing: ${missing[*]}" >&2
    "${as_root[@]}" apt-get update -qq >&2
    # Of servers the programs are wanted, not one of this machine's own on its usual port: they are neither started nor enabled.
    local policy=/usr/sbin/policy-rc.d keep_down=0 status=0 services=()
    for package in "${missing[@]}"; do
        case $package in
        openssh-server) services+=(ssh.service ssh.socket) ;;
        prometheus) services+=(prometheus.service) ;;
        docker.io) services+=(docker.service docker.socket containerd.service) ;;
        esac
    done
    if ((${#services[@]} > 0)) && [[ ! -e $policy ]]; then
        keep_down=1
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2 || status=$?
    if ((keep_down)); then
        "${as_root[@]}" rm -f "$policy"
        if [[ -d /run/systemd/system ]]; then "${as_root[@]}" systemctl disable --quiet "${services[@]}" 2>/dev/null || true; fi
    fi
    if ((status != 0)); then
        echo "apt-get could not install: ${missing[*]}" >&2
        exit 3
    fi
}
