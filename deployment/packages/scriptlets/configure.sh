# After the files are there; $first is empty for an upgrade.
systemd-sysusers @USERS@
systemd-tmpfiles --create @NAME@.conf
if [ -n "$first" ]; then
    systemctl preset @UNITS@ >/dev/null 2>&1 || true
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ -n "$first" ]; then
        systemctl start @START@ || true
    else
        # Sockets stay as they are: whoever connects meanwhile waits for the new process.
        systemctl try-restart @SERVICES@ || true
    fi
fi
