# Runs as the first process of a machine, in its own mount and process namespaces: $1 is the machine's directory, $2 is sshd.
# The directory is bound to a fixed place first, so that what is mounted over /run and /home afterwards cannot hide it.
set -eu
umask 022 # the machine's, and that of its sessions, not that of whoever starts it
dir=$1 sshd=$2
mkdir -p "$dir/run"
mount -t tmpfs -o mode=755 tmpfs "$dir/run"
mkdir "$dir/run/machine" "$dir/run/machine-keys" "$dir/run/host" "$dir/run/sshd"
mount --bind "$dir" "$dir/run/machine"
mount --rbind /run "$dir/run/host"
for entry in /run/*; do # keep what the host has there (a resolver's socket, say), except its sshd
	name=${entry##*/}
	[ -e "$dir/run/$name" ] || ln -s "/run/host/$name" "$dir/run/$name"
done
mkdir "$dir/run/small" # a disk that is soon full
mount -t tmpfs -o size=8m,mode=1777 tmpfs "$dir/run/small"
mount --rbind "$dir/run" /run
mount --bind /run/machine/home /home
mount --bind /run/machine/passwd /etc/passwd
mount --bind /run/machine/group /etc/group
if [ -e /etc/shadow ]; then mount --bind /run/machine/shadow /etc/shadow; fi
# sshd runs the key command only from directories that none but root can write to.
cp /run/machine/keys.sh /run/machine-keys/keys.sh
chmod 755 /run/machine-keys/keys.sh
# ps and $$ should agree. Containers with a masked /proc forbid it, which disturbs nothing that matters here.
mount -t proc proc /proc 2>/dev/null || true
rm -f /run/nologin
set -- -D -e -f /run/machine/sshd_config
# OpenSSH 9.8 and later punish a source for failed logins; older ones do not know the word.
if "$sshd" -t -f /run/machine/sshd_config -o PerSourcePenalties=no 2>/dev/null; then
	set -- "$@" -o PerSourcePenalties=no
fi
exec "$sshd" "$@"
