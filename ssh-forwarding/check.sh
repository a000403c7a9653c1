#!/bin/sh
# Finds what is wrong with a forwarded socket of the relay, and says what to do.
# usage: check.sh near HOST      where the tunnel starts; HOST is its name in ssh_config
#        check.sh far SOCKET     where gpg uses the socket
# SSH_CONFIG, when it is set, names a file for `ssh -F`.
# exit status: 0 all well, 1 something is wrong, 2 wrong usage
set -u

seconds=15 # longer than an ssh connection takes, also through a jump host
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkfifo "$work/out" || exit 1

ok() { printf 'ok: %s\n' "$1"; }
wrong() { # WHAT HINT
    printf 'wrong: %s\n  do: %s\n' "$1" "$2"
    exit 1
}

# Whether an agent answers at a socket: 0 yes, 1 no.
answers() {
    timeout "$seconds" gpg-connect-agent --raw-socket "$1" 'GETINFO version' /bye >"$work/answer" 2>&1 &&
        grep -q '^OK' "$work/answer"
}

explain() { # what ssh said, in $work/said
    if grep -q 'Host key verification failed' "$work/said"; then
        wrong "the host key is unknown, or another one than before" \
            "compare it with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then put it into UserKnownHostsFile"
    elif grep -q 'Permission denied' "$work/said"; then
        wrong "the far host does not take our key" "put the public half of IdentityFile into authorized_keys there"
    elif grep -Eq 'remote port forwarding failed|forwarding failed' "$work/said"; then
        wrong "the far host forbids the forwarding, or cannot make the socket" \
            "see push.sshd_config: AllowTcpForwarding must not be \"no\"; the socket's directory must exist there and belong to the tunnel's user"
    elif grep -Eq 'Connection refused|timed out|No route to host|Could not resolve' "$work/said"; then
        wrong "the far host cannot be reached: $(tail -n 1 "$work/said")" "ssh -v $host shows more"
    fi
    wrong "ssh says: $(tail -n 1 "$work/said")" "ssh -v $host shows more"
}

# Runs ssh until the far side has said its first line (its command prints one at once), then ends it. Never over a
# connection that is shared: its login may be older than what is wrong now, and it would keep our forwarding.
first_line() {
    ssh -T -o BatchMode=yes -o ControlPath=none "$@" </dev/null >"$work/out" 2>"$work/said" &
    timeout "$seconds" head -n 1 <"$work/out" >"$work/line"
    kill $! 2>/dev/null
    wait $! 2>/dev/null
    [ -s "$work/line" ]
}

near() {
    host=$1
    ssh ${SSH_CONFIG:+-F "$SSH_CONFIG"} -G "$host" >"$work/all" 2>"$work/said" || explain
    near=$(awk '$1 == "remoteforward" { print $3; exit }' "$work/all")
    far=$(awk '$1 == "remoteforward" { print $2; exit }' "$work/all")
    [ -n "$near" ] || wrong "ssh_config has no RemoteForward for $host" "see push.ssh_config"
    [ -S "$near" ] || wrong "$near: there is no socket" "is the relay running? its relay.yaml must have this socket"
    answers "$near" || wrong "$near: nobody answers there, or not to us" \
        "systemctl status blind-oracle-relay; does relay.yaml let $(id -un) use this socket?"
    ok "the relay answers at $near"

    # Without the forwarding of the file: a live tunnel must not lose its socket to this check.
    grep -Ev '^(remoteforward|localforward|dynamicforward|exitonforwardfailure) ' "$work/all" >"$work/config"
    first_line -F "$work/config" "$host" || explain
    ok "ssh logs in at $host"
    first_line -F "$work/config" -o ExitOnForwardFailure=yes -R "$far.check:$near" "$host" || explain
    ok "$host takes a forwarded socket beside $far"
}

far() {
    socket=$1
    directory=$(dirname "$socket")
    [ -d "$directory" ] || wrong "$directory: there is no such directory" \
        "make it, for the tunnel's user and the group of those who sign, mode 2750"
    if [ -n "$(find "$directory" -maxdepth 0 -perm /022)" ]; then
        wrong "$directory: others can write there, and put a socket of their own in its place" "chmod go-w $directory"
    fi
    if [ ! -S "$socket" ]; then
        wrong "$socket: there is no socket" "is the tunnel up? on the other host: check.sh near HOST"
    fi
    answers "$socket" || wrong "$socket: nobody answers: a tunnel that was cut left it behind, or we may not use it" \
        "StreamLocalBindUnlink yes in sshd_config lets the next tunnel replace it; ls -l $socket shows who may use it"
    ok "a relay answers at $socket"
}

case "${1:-}:$#" in
near:2) near "$2" ;;
far:2) far "$2" ;;
*)
    sed -n '3,6s/^# //p' "$0" >&2
    exit 2
    ;;
esac
