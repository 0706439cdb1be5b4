# SPDX-License-Identifier: MIT
# Completion of gazda for bash.
_gazda_run_options='--kernel --boot --initrd --append --cpus --mem --disk --share --root --net --rng --serial --console
    --port --no-agent --vsock --balloon --engine --mmu --direct --verify --trace --perf-map --no-reboot --name --detach
    --debug-exit --stats --gdb --log --help'

_gazda_image() {
    local words
    if [ "$COMP_CWORD" = 2 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'create info convert resize check commit' -- "$cur")
        return
    fi
    case $prev in
    -f | -O | -F | --format | --output | --backing-format) words='raw qcow2' ;;
    --compression) words='zlib zstd' ;;
    --compat) words='v2 v3' ;;
    --cluster-size) words='4K 64K 128K 1M 2M' ;;
    --refcount-bits) words='1 2 4 8 16 32 64' ;;
    esac
    if [ -z "$words" ] && [[ $cur == -* ]]; then
        local make='--compression --cluster-size --refcount-bits --compat --lazy-refcounts --force'
        case ${COMP_WORDS[2]} in
        create) words="--format --backing --backing-format $make" ;;
        info) words='--format --json' ;;
        convert) words="--format --output --compress --quiet $make" ;;
        resize) words='--format --shrink' ;;
        check) words='--format --repair --quiet' ;;
        commit) words='--keep --quiet' ;;
        esac
    fi
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}

_gazda_appliance() {
    local words=
    case ${COMP_WORDS[2]} in
    build) words='--packages --name --description --size --cpus --mem --port --run -o' ;;
    import) words='--name --kernel --initrd --append' ;;
    export) words=-o ;;
    run) words=$_gazda_run_options ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    compopt -o filenames
    mapfile -t COMPREPLY < <(
        compgen -f -- "$cur"
        compgen -W "$(gazda appliance list 2>/dev/null | sed -n '2,$s/ .*//p')" -- "$cur"
    )
}
_gazda() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'run image appliance ps console exec cp stop pause resume balloon kill help --version' -- "$cur")
        return
    fi
    if [ "${COMP_WORDS[1]}" = image ]; then
        _gazda_image
        return
    fi
    case $prev in
    --kernel | --initrd | --disk | --stats | --trace)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        ;;
    --share | --root)
        compopt -o filenames -o nospace
        mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        ;;
    --boot) mapfile -t COMPREPLY < <(compgen -W 'auto linux stub pvh multiboot flat:' -- "$cur") ;;
    --serial | --console) mapfile -t COMPREPLY < <(compgen -W 'stdio pty file: unix: socket null' -- "$cur") ;;
    --net) mapfile -t COMPREPLY < <(compgen -W 'user tap= link= none' -- "$cur") ;;
    --rng) mapfile -t COMPREPLY < <(compgen -W 'off bps= iops=' -- "$cur") ;;
    --engine) mapfile -t COMPREPLY < <(compgen -W 'auto translate interp' -- "$cur") ;;
    --direct) mapfile -t COMPREPLY < <(compgen -W 'auto off on' -- "$cur") ;;
    --mmu) mapfile -t COMPREPLY < <(compgen -W 'auto soft window' -- "$cur") ;;
    --log) mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$cur") ;;
    help) mapfile -t COMPREPLY < <(compgen -W 'run image ps console exec cp stop pause resume balloon kill appliance' -- "$cur") ;;
    appliance) mapfile -t COMPREPLY < <(compgen -W 'build run import export list info delete' -- "$cur") ;;
    --append | --cpus | --mem | --name | --gdb | --port | --vsock | --balloon | --timeout | --wait | --packages | --size | --description) ;;
    *)
        case ${COMP_WORDS[1]} in
        ps) mapfile -t COMPREPLY < <(compgen -W '--json --quiet --help' -- "$cur") ;;
        console | resume | balloon | kill) mapfile -t COMPREPLY < <(compgen -W "$(gazda ps -q 2>/dev/null)" -- "$cur") ;;
        exec) mapfile -t COMPREPLY < <(compgen -W "-n --no-stdin --wait $(gazda ps -q 2>/dev/null)" -- "$cur") ;;
        cp)
            compopt -o filenames -o nospace
            mapfile -t COMPREPLY < <(compgen -f -- "$cur"; compgen -S : -W "$(gazda ps -q 2>/dev/null)" -- "$cur")
            ;;
        pause) mapfile -t COMPREPLY < <(compgen -W "--freeze $(gazda ps -q 2>/dev/null)" -- "$cur") ;;
        stop) mapfile -t COMPREPLY < <(compgen -W "--timeout --force $(gazda ps -q 2>/dev/null)" -- "$cur") ;;
        appliance) _gazda_appliance ;;
        esac
        [ "${COMP_WORDS[1]}" = run ] && mapfile -t COMPREPLY < <(compgen -W "$_gazda_run_options" -- "$cur")
        ;;
    esac
}
complete -F _gazda gazda
