# Before the files go, and no new version comes.
if [ -d /run/systemd/system ]; then
    systemctl stop @UNITS@ @INSTANCES@ || true
fi
systemctl disable @UNITS@ @TEMPLATES@ >/dev/null 2>&1 || true
