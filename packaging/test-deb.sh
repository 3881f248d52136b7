#!/usr/bin/env bash
# Installs the package on this machine (as root), tries what it promises against an emulator, and removes it again.
#   packaging/test-deb.sh [PACKAGE.deb]
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "${1:-$(packaging/deb.sh)}")
[ "$(id -u)" -eq 0 ] || { echo "only root installs packages" >&2; exit 1; }
command -v containerfs >/dev/null && { echo "containerfs is installed already: $(command -v containerfs)" >&2; exit 1; }

work=$(mktemp -d)
mnt="$work/mnt"
emulator=
cleanup() {
    if mountpoint -q "$mnt"; then umount "$mnt"; fi
    if [ -n "$emulator" ]; then kill "$emulator" && wait "$emulator" || true; fi
    DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq containerfs >/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
say() { echo "ok: $*"; }

DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$deb" >/dev/null
[ "$(command -v containerfs)" = /usr/bin/containerfs ]
say "installed: $(containerfs --version), $(dpkg-query -W -f '${Installed-Size} KiB, depends on ${Depends}' containerfs)"

man_says=$(MANPAGER=cat man --warnings containerfs 2>&1 >/dev/null)
[ -z "$man_says" ] || { echo "man warns: $man_says" >&2; exit 1; }
man -w containerfs-mount containerfs-containers-files-create >/dev/null
say "the manual page renders without warnings, and each command has one"
for file in /usr/share/bash-completion/completions/containerfs /usr/share/zsh/vendor-completions/_containerfs \
    /usr/share/fish/vendor_completions.d/containerfs.fish /etc/containerfs/config.toml; do
    [ -s "$file" ] || { echo "$file is missing" >&2; exit 1; }
done
bash -c 'source /usr/share/bash-completion/completions/containerfs && complete -p containerfs' >/dev/null
say "completions and configuration are in their places"
if command -v systemd-analyze >/dev/null; then
    mkdir -p "$work/units"
    install -m 600 /dev/null "$work/key"
    systemd-analyze verify --man=no /usr/lib/systemd/system/containerfs@.service /usr/lib/systemd/user/containerfs.service
    say "systemd finds nothing amiss in the units"
fi

containerfs emulator --listen 127.0.0.1:0 --demo >"$work/emulator" &
emulator=$!
until [ -s "$work/emulator" ]; do sleep 0.1; done
url=$(grep -o 'http://[^ ]*' "$work/emulator")
install -m 600 /dev/null "$work/key" && echo sk-test >"$work/key"
mkdir "$mnt"
options="base_url=$url,api_key_file=$work/key,cache_dir=$work/cache,state_dir=$work/state,config=/etc/containerfs/config.toml"

mount -t fuse.containerfs containerfs "$mnt" -o "$options"
[ -f "$mnt/quarterly-report/chart.png" ]
echo 'one more line' >>"$mnt/quarterly-report/report.md"
umount "$mnt"
say "mount -t fuse.containerfs: listed, appended to, unmounted"

echo "quarterly-report $mnt fuse.containerfs _netdev,allow_other,nofail,$options 0 0" >"$work/fstab"
mount -a -T "$work/fstab"
grep -q 'one more line' "$mnt/report.md"
findmnt -n -o SOURCE,FSTYPE "$mnt" | sed 's/^/ok: findmnt: /'
umount "$mnt"
say "mount -a with a line of /etc/fstab: what was written before is there"
