#!/bin/sh
# Signs RPMs, and files such as repomd.xml beside them, with the oracle's key for a distribution. The tools are the
# usual ones, rpmsign and gpg; this asks the relay which key to use, runs them on several files at once, checks each
# result, and says for each file that is not signed what the relay says.
#
# usage: sign-package.sh [--distribution NAME] [--key-type TYPE] [--jobs N] [--] FILE...
#   --distribution  what the files are for, such as el10-x86_64; default: what relay.yaml says
#   --key-type      modern, legacy or another type of the oracle's policy
#   --jobs          how many files at once; default 4
#
# An RPM gets its signature inside, any other FILE gets FILE.asc. GNUPGHOME is used as it is, unless `setup` made a home
# for a socket of this distribution.
# Exit status: how many files are not signed, 125 at most; so 0 means that all are. What stops all of them counts for all.
set -u
LC_ALL=C
export LC_ALL

me=sign-package
relay=${BLIND_ORACLE_RELAY:-blind-oracle-relay}
batch=100 # files; the relay remembers its last 200 requests
most=125  # shells give 126 and more another meaning

say() { printf '%s\n' "$*" >&2; }

# A name for a terminal or a log: whoever chose it must not write lines or colours there.
shown() { printf '%s' "$1" | tr '[:cntrl:]' '?'; }

# Below: one file, as a process of its own whose command line names the job, so that the relay's log can be asked for it.

# Between its two steps the signature lies in FILE.sig, and about one that is there gpg would ask at the terminal.
run_rpmsign() { # FILE
    if [ -e "$1.sig" ]; then
        printf '%s: is in the way of rpmsign: move it away, or remove it\n' "$1.sig"
        return 1
    fi
    half=$1.sig
    rpmsign --define "_gpg_name $SIGN_PACKAGE_USER" --define "__gpg $(command -v gpg)" --addsign "$1"
}

# rpmsign expands macros in the name that gpg shall write to, and %(...) is a command: such a file gets a plain name first.
sign_rpm() { # FILE
    case $1 in *%*) ;; *) run_rpmsign "$1"; return ;; esac
    (
        case $1 in */*) cd -- "${1%/*}/" || exit ;; esac
        ln -T -- "${1##*/}" "$plain" && run_rpmsign "$plain" || exit
        # shellcheck disable=SC3013 # dash and bash know it; mv refuses when the signature was written in place
        [ "$plain" -ef "${1##*/}" ] || mv -fT -- "$plain" "${1##*/}"
    )
}

good_rpm() { # FILE
    checked=$(rpmkeys --dbpath "$SIGN_PACKAGE_WORK/rpmdb" --checksig --verbose "$1" 2>&1) || {
        printf '%s\n' "$checked"
        return 1
    }
    # rpm says OK of a package without a signature, too, and NOKEY of one by another key; its name may say anything.
    case ${checked##*"$1:"} in *NOKEY*) ;; *"ignature, key"*) return 0 ;; esac
    echo "rpm finds no signature by this key in it: can this rpm verify such keys?"
    return 1
}

sign_file() { # FILE
    gpg --batch --local-user "$SIGN_PACKAGE_USER" --armor --output "$1.asc.$$" --detach-sign -- "$1"
}

good_file() { # FILE
    checked=$(gpg --batch --status-fd 1 --verify -- "$1.asc.$$" "$1" 2>&1)
    case $checked in
        *"[GNUPG:] VALIDSIG "*"${SIGN_PACKAGE_USER%!}"*) mv -fT -- "$1.asc.$$" "$1.asc"; return ;;
    esac
    printf '%s\n' "$checked" | sed '/^\[GNUPG:\]/d'
    return 1
}

signed() { # FILE RESULT
    if ! [ -f "$1" ]; then
        echo "there is no such file" >"$2"
        return 1
    fi
    case $1 in
        *.rpm) sign_rpm "$1" >"$2" 2>&1 && good_rpm "$1" >"$2" 2>&1 ;;
        *) sign_file "$1" >"$2" 2>&1 && good_file "$1" >"$2" 2>&1 ;;
    esac
}

if [ "${1:-}" = --worker ]; then # JOB NUMBER FILE
    file=$4
    case $file in -*) file=./$file ;; esac
    plain=.sign-package.$$.rpm half=$file.asc.$$
    # Also when it is interrupted: a repository must not be published with half a signature beside its files.
    trap 'rm -f -- "$half" "${file%"${file##*/}"}$plain" "${file%"${file##*/}"}$plain.sig"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if signed "$file" "$SIGN_PACKAGE_WORK/$3.said"; then
        : >"$SIGN_PACKAGE_WORK/$3.ok"
    fi
    exit 0
fi

usage() { # PROBLEM
    say "$me: error: $1"
    sed -n '/^# usage:/,/^#   --jobs/s/^# \{0,1\}//p' "$self" >&2
    exit "${count:-1}"
}

# What keeps all from being signed is a failure of each.
give_up() { # REASON
    say "$me: error: $1"
    exit "$count"
}

field() { # NAME, of the relay's answer
    printf '%s\n' "$choice" | sed -n "s/^  \"$1\": \"\{0,1\}\(.*[^\",]\)\"\{0,1\},\{0,1\}\$/\1/p"
}

# What the audit log shall know of the job; the relay may not read our environment, and gpg hands this on.
claims() {
    set -- distribution "$distribution" project "${CI_PROJECT_PATH:-}" pipeline "${CI_PIPELINE_ID:-}" \
        job "${CI_JOB_ID:-}" url "${CI_JOB_URL:-}"
    printf blind-oracle
    while [ $# -gt 0 ]; do
        [ -z "$2" ] || printf ' %s=%s' "$1" "$(shown "$2" | sed 's/%/%25/g; s/ /%20/g')"
        shift 2
    done
}

any_rpm() {
    for file in "$@"; do
        case $file in *.rpm) return 0 ;; esac
    done
    return 1
}

self=$0
[ -f "$self" ] || self=$(command -v -- "$0")
distribution='' key_type='' jobs=4
while [ $# -gt 0 ]; do
    case $1 in
        --distribution | --key-type | --jobs)
            [ $# -gt 1 ] || usage "$1 needs a value"
            option=$1 value=$2
            shift 2
            ;;
        --distribution=* | --key-type=* | --jobs=*)
            option=${1%%=*} value=${1#*=}
            shift
            ;;
        -h | --help)
            sed -n '2,/^set -u/s/^# \{0,1\}//p' "$self"
            exit 0
            ;;
        --)
            shift
            break
            ;;
        -*) usage "unknown option $(shown "$1")" ;;
        *) break ;;
    esac
    case $option in
        --distribution) distribution=$value ;;
        --key-type) key_type=$value ;;
        --jobs) jobs=$value ;;
    esac
done
[ $# -gt 0 ] || usage "no files"
count=$(($# > most ? most : $#))
case $jobs in '' | 0* | *[!0-9]* | ????*) usage "--jobs: expected a number from 1 to 999" ;; esac

SIGN_PACKAGE_WORK=$(mktemp -d "${TMPDIR:-/tmp}/sign-package.XXXXXX") || give_up "there is no room for temporary files"
trap 'rm -rf "$SIGN_PACKAGE_WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

choice=$("$relay" key-for --json ${key_type:+--type "$key_type"} -- ${distribution:+"$distribution"} \
    2>"$SIGN_PACKAGE_WORK/said") || give_up "no key: $(cat "$SIGN_PACKAGE_WORK/said")"
SIGN_PACKAGE_USER=$(field local_user)
home=$(field home)
[ "$home" = null ] || export GNUPGHOME="$home"
[ -z "$distribution" ] || export BLIND_ORACLE_DISTRIBUTION="$distribution"
if [ -z "${PINENTRY_USER_DATA:-}" ]; then
    PINENTRY_USER_DATA=$(claims)
    export PINENTRY_USER_DATA
fi
export SIGN_PACKAGE_WORK SIGN_PACKAGE_USER

if any_rpm "$@"; then
    certificate=$SIGN_PACKAGE_WORK/key.asc
    gpg --batch --armor --export "${SIGN_PACKAGE_USER%!}" >"$certificate" 2>"$SIGN_PACKAGE_WORK/said"
    [ -s "$certificate" ] || give_up "the key is not in GNUPGHOME: blind-oracle-relay doctor says what to do"
    rpmkeys --dbpath "$SIGN_PACKAGE_WORK/rpmdb" --import "$certificate" >"$SIGN_PACKAGE_WORK/said" 2>&1 ||
        give_up "this rpm cannot use such a key: $(cat "$SIGN_PACKAGE_WORK/said")"
fi

failed=0 own=0 number=0 first=1

# Sign the files that were listed, then ask the relay about all of them at once.
run_batch() {
    xargs -0 -n 3 -P "$jobs" "${BASH:-sh}" "$self" --worker <"$SIGN_PACKAGE_WORK/list"
    rm -f "$SIGN_PACKAGE_WORK/list"
    set --
    at=$first
    while [ "$at" -le "$number" ]; do
        set -- "$@" "$(job "$at")"
        at=$((at + 1))
    done
    "$relay" outcome --named -- "$@" >"$SIGN_PACKAGE_WORK/outcomes" 2>/dev/null
    while [ "$first" -le "$number" ]; do
        report "$first"
        first=$((first + 1))
    done
}

job() { # NUMBER
    printf '%s' "${SIGN_PACKAGE_WORK##*/}-$1-"
}

report() { # NUMBER
    result=$SIGN_PACKAGE_WORK/$1
    name=$(shown "$(cat "$result.name")")
    told=$(sed -n "s/^$(job "$1")	//p" "$SIGN_PACKAGE_WORK/outcomes")
    case $told in *"signed "*"BY FALLBACK"*) by=', BY FALLBACK' && own=$((own + 1)) ;; *) by='' ;; esac
    if [ -e "$result.ok" ]; then
        printf 'signed%s: %s\n' "$by" "$name"
        return
    fi
    failed=$((failed + 1))
    say "NOT SIGNED: $name"
    printf '%s\n' "$told" | sed '/^signed /d; /^$/d; s/^/    the relay: /' | tail -n 1 >&2
    tr '\001-\011\013-\037\177' '?' <"$result.said" | sed '/^$/d; s/^/    /' | tail -n 5 >&2
}

for file in "$@"; do
    number=$((number + 1))
    printf '%s' "$file" >"$SIGN_PACKAGE_WORK/$number.name"
    printf '%s\0%s\0%s\0' "$(job "$number")" "$number" "$file" >>"$SIGN_PACKAGE_WORK/list"
    [ $((number % batch)) -ne 0 ] || run_batch
done
[ ! -e "$SIGN_PACKAGE_WORK/list" ] || run_batch

if [ "$own" -gt 0 ]; then
    say "*************************************************************************************"
    say "*** $own of $# files were signed BY FALLBACK: with this host's own key, not the oracle's."
    say "*** Why, and until when: blind-oracle-relay status"
    say "*************************************************************************************"
fi
[ "$failed" -eq 0 ] || say "$me: $failed of $# files are not signed"
exit $((failed > most ? most : failed))
