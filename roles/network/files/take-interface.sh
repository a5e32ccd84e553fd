#!/bin/sh
# take-interface NAME: systemd-networkd takes an interface over, as its files say. It drops what others gave the interface as soon
# as it starts, and whoever lets go of one later takes the addresses away with it: hence first one, then the other.
# Handed to systemd-run as it is, so without braces around variables: systemd would fill them in.
set -u
export LC_ALL=C
if systemctl --quiet is-active NetworkManager.service; then
  systemctl reload NetworkManager.service
  patience=50
  until nmcli --terse --fields DEVICE,STATE device status | grep -qxF "$1:unmanaged" || [ "$patience" -eq 0 ]; do
    patience=$((patience - 1))
    sleep 0.2
  done
fi
systemctl start systemd-networkd.service
networkctl reload
networkctl reconfigure "$1"
