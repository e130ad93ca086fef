#!/usr/bin/env bash
# A 64-bit ARM Debian 12 (what Raspberry Pi OS is built on) on an x86-64 one, by user-mode emulation.
#   emulate.sh setup         make the root file system: once, about 10 minutes; needs root and apt
#   emulate.sh run CMD...    run CMD in it, in the folder BOARD_WORK (mounted at /work-here) if set
# Settings: BOARD_BASE (a folder for about 1 GB), CPU (cortex-a72: Pi 4, cortex-a76: Pi 5, max),
# MIRROR (of Debian). NETWORK=no leaves the command the loopback alone.
set -euo pipefail
base=${BOARD_BASE:-${TMPDIR:-/tmp}/uhlm-board}
cpu=${CPU:-cortex-a76}
root=$base/root
suite=bookworm
packages=python3,python3-venv,libgomp1,libstdc++6,procps,iproute2
binfmt=/proc/sys/fs/binfmt_misc

usage() { sed -n '2,6p' "$0" >&2; exit 2; }
[ $# -gt 0 ] || usage
[ "$(id -u)" = 0 ] || { echo 'emulate: needs root: it mounts and changes its root' >&2; exit 1; }

# The kernel opens the emulator itself (flag F), so it need not lie in the emulated root.
register() {
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
    [ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register
}

setup() {
    local missing=() host
    command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v ip >/dev/null || missing+=(iproute2)
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"
    fi
    register
    if [ ! -e "$base/ready" ]; then
        host=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
            grep -v '^ *#' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ' || true)
        rm -rf --one-file-system "$root" && mkdir -p "$root"
        debootstrap --arch=arm64 --foreign --variant=minbase --include=$packages $suite "$root" \
            "${MIRROR:-${host:-https://deb.debian.org/debian}}"
        # In a container debootstrap may leave /proc as a link to itself.
        [ ! -L "$root/proc" ] || { rm "$root/proc"; mkdir "$root/proc"; }
        DEBIAN_FRONTEND=noninteractive unshare --mount --pid --fork --kill-child bash -c \
            'mount -t proc proc "$1/proc"; exec chroot "$1" /debootstrap/debootstrap --second-stage' sh "$root"
        cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$base/certificates"
        touch "$base/ready"
    fi
}

# What a board's /proc/cpuinfo says: the emulator shows the host's.
cpuinfo() {
    local part features model i
    case $cpu in
    cortex-a72) part=0xd08 model='Raspberry Pi 4 Model B (emulated)' features='fp asimd evtstrm crc32 cpuid' ;;
    cortex-a76) part=0xd0b model='Raspberry Pi 5 Model B (emulated)'
        features='fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' ;;
    *) part=0x000 model="emulated $cpu"
        features='fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp sve i8mm' ;;
    esac
    for ((i = 0; i < $(nproc); i++)); do
        printf 'processor\t: %d\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: %s\n\n' $i "$features" $part
    done
    printf 'Model\t\t: %s\n' "$model"
}

# Mounts live in a namespace of their own and go with the command; nothing of the host's disks is seen.
run() {
    [ -x "$root/usr/bin/env" ] || { echo "emulate: no root at $root: run emulate.sh setup" >&2; exit 1; }
    register
    local net=()
    [ "${NETWORK:-yes}" = yes ] || net=(--net)
    export BOARD_ROOT=$root BOARD_WORK=${BOARD_WORK:-}
    BOARD_CPUINFO=$(cpuinfo)
    export BOARD_CPUINFO
    exec unshare --mount "${net[@]}" bash -ec '
        mount --make-rprivate /
        r=$BOARD_ROOT
        mount --bind "$r" "$r"
        mount -t proc proc "$r/proc"
        mount -t tmpfs -o mode=755 tmpfs "$r/dev"; mkdir "$r/dev/pts" "$r/dev/shm"
        for d in null zero full random urandom tty; do touch "$r/dev/$d"; mount --bind "/dev/$d" "$r/dev/$d"; done
        mount -t devpts -o newinstance,ptmxmode=0666 devpts "$r/dev/pts"; ln -s pts/ptmx "$r/dev/ptmx"
        mount -t tmpfs tmpfs "$r/dev/shm"; ln -s /proc/self/fd "$r/dev/fd"
        mount -t tmpfs tmpfs "$r/run"
        printf "%s\n" "$BOARD_CPUINFO" >"$r/run/cpuinfo"; mount --bind "$r/run/cpuinfo" "$r/proc/cpuinfo"
        ip link set lo up 2>/dev/null || true
        cp -L /etc/resolv.conf /etc/hosts "$r/etc/" 2>/dev/null || true
        mkdir -p "$r/work-here"
        if [ -n "$BOARD_WORK" ]; then mount --bind "$BOARD_WORK" "$r/work-here"; fi
        exec chroot "$r" /usr/bin/env -i -C /work-here HOME=/home/board LANG=C.UTF-8 QEMU_CPU="$0" \
            PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin TERM="${TERM:-dumb}" "$@"
    ' "$cpu" "$@"
}

case $1 in
setup) setup ;;
run) shift; [ $# -gt 0 ] || usage; mkdir -p "$root/home/board"; run "$@" ;;
*) usage ;;
esac
