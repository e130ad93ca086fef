#!/bin/sh
# Run the device server or the verifier from the start of the machine on: install.sh serve|cloud BIN
# BIN is the uhlm-edge command, which every user must be able to run. DESTDIR is for tests.
set -eu
service=${1:-}
bin=${2:-}
case $service in serve | cloud) ;; *) echo 'install-service: name the service: SERVICE=serve or SERVICE=cloud' >&2; exit 2 ;; esac
[ -x "$bin" ] || { echo "install-service: no command $bin: install it there first: make install FROM=... VENV=/opt/uhlm-edge" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
[ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo 'install-service: needs root' >&2; exit 1; }
settings=$root/etc/uhlm-edge
mkdir -p "$settings" "$root/etc/systemd/system"
sed "s|@BIN@|$bin|" "$here/uhlm-edge-$service.service" >"$root/etc/systemd/system/uhlm-edge-$service.service"
if [ ! -e "$settings/$service.env" ]; then
    variable=UHLM_SERVE_KEY
    [ "$service" = serve ] || variable=UHLM_API_KEY
    (
        umask 077
        key=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
        printf '# The key that callers must know, and the profile of this machine.\n%s=%s\n#UHLM_PROFILE=pi5\n' \
            "$variable" "$key" >"$settings/$service.env"
    )
fi
[ -n "$root" ] || { systemctl daemon-reload; systemctl enable --now "uhlm-edge-$service"; }
echo "install-service: uhlm-edge-$service; its key is in $settings/$service.env; journalctl -u uhlm-edge-$service"
