#!/bin/bash
# Prints the keys that were pushed for account $1 on this machine. Nothing is printed, and so nobody admitted, unless the answer is a 200.
# Bash speaks to the network itself, so that the machine needs no HTTP client.
set -u
url='@URL@' instance='@INSTANCE@' user=$1
rest=${url#http://}
authority=${rest%%[/?]*}
path=${rest#"$authority"}
[[ $path == /* ]] || path=/$path
[[ $path == *\?* ]] && path+='&' || path+='?'
host=${authority%:*} port=${authority##*:}
[[ $authority == *:* ]] || port=80
host=${host#[} host=${host%]}
exec 3<>"/dev/tcp/$host/$port" || exit 1
printf 'GET %sinstance=%s&user=%s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$instance" "$user" "$authority" >&3
IFS= read -r -t 30 status <&3 || exit 1
[[ $status == 'HTTP/1.'[01]' 200 '* ]] || exit 1
while IFS= read -r -t 30 header <&3 && [[ $header != $'\r' ]]; do :; done
while IFS= read -r -t 30 key <&3 || [[ -n $key ]]; do printf '%s\n' "$key"; done
