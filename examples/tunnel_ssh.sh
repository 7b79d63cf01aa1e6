#!/bin/sh
# ssh that goes on while this machine changes networks: sessions, -L, -R, and scp by `scp -S`.
#
#     examples/tunnel_ssh.sh [OPTIONS OF SSH] HOST [COMMAND]
#
# On HOST, beside its sshd:  whimbrel serve --tunnel --allow localhost:22 --token-file ~/.config/whimbrel/token
# Here, the same token in the same place: whimbrel keygen makes it.
exec ssh -o ProxyCommand="whimbrel pipe %h --to localhost:%p" "$@"
