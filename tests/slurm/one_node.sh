#!/usr/bin/env bash
# A SLURM of one node, this machine, for the tests: one_node.sh start DIR [CPUS]; one_node.sh stop DIR.
# Needs root and Debian's packages slurm-wlm and munge. All it writes is in DIR; all it starts ends with stop.
set -Eeuo pipefail
what=${1:?start or stop}
dir=$(realpath -m "${2:?a folder}")
conf=$dir/slurm.conf

stop() {
    for name in slurmd slurmctld munged; do
        if [ -s "$dir/$name.pid" ]; then
            pid=$(cat "$dir/$name.pid")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 100); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
            kill -9 "$pid" 2>/dev/null || true
            rm -f "$dir/$name.pid"
        fi
    done
}

start() {
    local cpus=${3:-4} name
    name=$(hostname -s)
    mkdir -p "$dir"/{state,spool,munge}
    chmod 700 "$dir/munge"
    cat > "$conf" <<CONF
ClusterName=onenode
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=$name NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
CONF
    echo "CgroupPlugin=cgroup/v1" > "$dir/cgroup.conf" # asks nothing of the system until a plugin uses it
    mungekey --create --force --keyfile "$dir/munge/key"
    munged --force --num-threads 2 --socket "$dir/munge/socket" --key-file "$dir/munge/key" \
        --pid-file "$dir/munged.pid" --log-file "$dir/munge/log" --seed-file "$dir/munge/seed"
    export SLURM_CONF=$conf
    slurmctld -c -f "$conf"
    slurmd -c -f "$conf"
    for _ in $(seq 100); do
        if sinfo --noheader --format %t 2>/dev/null | grep -q idle; then
            echo "export SLURM_CONF=$conf"
            return
        fi
        sleep 0.2
    done
    return 1
}

failed() {
    echo "SLURM did not come up:" >&2
    for log in "$dir"/*.log "$dir"/munge/log; do
        [ -f "$log" ] && tail -n 20 "$log" >&2
    done
    stop
    exit 1
}

case $what in
    start) trap failed ERR; start "$@" ;;
    stop) stop ;;
    *) echo "one_node.sh start DIR [CPUS] | stop DIR" >&2; exit 2 ;;
esac
