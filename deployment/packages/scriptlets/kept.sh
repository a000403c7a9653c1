# Whoever wants them gone does that with open eyes: no package manager deletes keys or the proof of what was signed.
for kept in @STATE@; do
    if [ -e "$kept" ]; then
        echo "@NAME@: $kept stays; delete it by hand when nobody needs it any more" >&2
    fi
done
