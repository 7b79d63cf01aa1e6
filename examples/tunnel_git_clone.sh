#!/bin/sh
# git clone, by ssh, that goes on while this machine changes networks; so does what the clone fetches and pushes later.
#
#     examples/tunnel_git_clone.sh ssh://HOST/PATH FOLDER
#
# HOST serves tunnels to its sshd: see tunnel_ssh.sh.
here=$(cd "$(dirname "$0")" && pwd)
exec git clone --config core.sshCommand="'$here/tunnel_ssh.sh' ${SSH_OPTIONS-}" "$1" "$2"
