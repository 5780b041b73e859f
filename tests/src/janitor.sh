# Removes what test processes left behind: namespaces, cgroups, mounts and directories named after them.
#   sh -c SCRIPT janitor CGROUP_ROOT TEMP stale      of every test process that is gone
#   sh -c SCRIPT janitor CGROUP_ROOT TEMP icPID      of that one, once standard input ends (it holds the other end)
cgroups=$1 temp=$2 mode=$3

clean() {
    for group in "$cgroups/$1-"*; do
        [ -d "$group" ] || continue
        echo 1 >"$group/cgroup.kill" 2>/dev/null
        tries=0
        while [ -d "$group" ] && [ $tries -lt 100 ]; do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.02
            tries=$((tries + 1))
        done
    done
    for file in "/run/netns/$1-"*; do
        [ -e "$file" ] || continue
        name=${file##*/}
        for pid in $(ip netns pids "$name" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
        ip netns delete "$name" 2>/dev/null
        rm -rf "/etc/netns/$name"
    done
    for mounted in "$temp/$1-"*; do
        umount -l "$mounted" 2>/dev/null
    done
    rm -rf "$temp/$1-"*
}

if [ "$mode" = stale ]; then
    for left in /run/netns/ic[0-9]*-* "$cgroups"/ic[0-9]*-* "$temp"/ic[0-9]*-*; do
        [ -e "$left" ] || continue
        owner=${left##*/ic}
        owner=${owner%%-*}
        [ -d "/proc/$owner" ] || clean "ic$owner"
    done
else
    cat >/dev/null
    clean "$mode"
fi
exit 0
