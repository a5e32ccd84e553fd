#!/bin/sh
# End the SSH sessions at addresses that this node has no more, and print each. Nobody is at their other end, but sshd, as it is before
# the cluster configures it, notices that when the kernel does, after two hours.
set -eu
ss --no-header --numeric --tcp --processes state established '( sport = :22 )' | while read -r _received _sent here _there users; do
  if [ -z "$(ip -oneline address show to "$(echo "${here%:*}" | tr -d '[]')")" ]; then
    echo "$here"
    for process in $(echo "$users" | grep -o '"sshd[^,]*,pid=[0-9]*' | grep -o '[0-9]*$'); do
      kill "$process"
    done
  fi
done
