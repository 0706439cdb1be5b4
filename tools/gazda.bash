# SPDX-License-Identifier: MIT
# Completion of gazda for bash.
_gazda() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'run help --version' -- "$cur")
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
    --serial | --console) mapfile -t COMPREPLY < <(compgen -W 'stdio pty file: unix: null' -- "$cur") ;;
    --net) mapfile -t COMPREPLY < <(compgen -W 'user tap= link= none' -- "$cur") ;;
    --rng) mapfile -t COMPREPLY < <(compgen -W 'off bps= iops=' -- "$cur") ;;
    --engine) mapfile -t COMPREPLY < <(compgen -W 'auto translate interp' -- "$cur") ;;
    --direct) mapfile -t COMPREPLY < <(compgen -W 'auto off on' -- "$cur") ;;
    --mmu) mapfile -t COMPREPLY < <(compgen -W 'auto soft window' -- "$cur") ;;
    --log) mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$cur") ;;
    help) mapfile -t COMPREPLY < <(compgen -W 'run' -- "$cur") ;;
    --append | --cpus | --mem | --name | --gdb | --port) ;;
    *)
        [ "${COMP_WORDS[1]}" = run ] && mapfile -t COMPREPLY < <(compgen -W '--kernel --boot --initrd --append --cpus
            --mem --disk --share --root --net --rng --serial --console --port --vsock --engine --mmu --direct --verify --trace --perf-map --no-reboot --name --debug-exit
            --stats --gdb --log --help' -- "$cur")
        ;;
    esac
}
complete -F _gazda gazda
