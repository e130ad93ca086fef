"""Completion scripts. They hold all that can be completed, so that TAB starts no Python.

On a small board the interpreter takes a second; a script of the shell's own answers at once. The
price is that it is made anew after an update.
"""

from __future__ import annotations

from .tree import Command, Option

SHELLS = ("bash", "zsh", "fish")


def completion(root: Command, shell: str) -> str:
    """The script for one of SHELLS."""
    if shell == "fish":
        return _fish(root)
    script = _bash(root)
    if shell == "zsh":  # zsh runs bash's completions
        script = f"autoload -U +X bashcompinit && bashcompinit\n{script}"
    return script


def _bash(root: Command) -> str:
    """The words are matched one by one against the paths of commands, options skipped."""
    function = "_" + root.name.replace("-", "_")
    groups: list[str] = []
    words: list[str] = []
    files: list[str] = []
    values: list[str] = []
    for command in root.walk():
        key = " ".join(command.path[1:])
        names = [sub.path[-1] for sub in command.subcommands]
        flags = [name for option in command.options for name in option.names]
        groups += [f"{key} {name}".strip() for name in names]
        words.append(f'        "{key}") words="{" ".join([*names, *flags, "--help"])}" ;;')
        for option in command.options:
            for name in option.names:
                if option.choices:
                    offered = " ".join(option.choices)
                    values.append(f'        "{key} {name}") values="{offered}" ;;')
                elif option.value:
                    files.append(f"{key} {name}")
    lines = "\n".join
    return f"""\
{function}() {{
    local here="" word words="" values="" i current="${{COMP_WORDS[COMP_CWORD]}}"
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{here:+$here }}${{COMP_WORDS[i]}}"
        case "$word" in {_any_of(groups)}) here="$word" ;; esac
    done
    case "$here ${{COMP_WORDS[COMP_CWORD-1]}}" in
{lines(values)}
        {_any_of(files)}) values=FILES ;;
    esac
    if [[ "$values" == FILES ]]; then
        COMPREPLY=( $(compgen -f -- "$current") )
        return
    elif [[ -n "$values" ]]; then
        COMPREPLY=( $(compgen -W "$values" -- "$current") )
        return
    fi
    case "$here" in
{lines(words)}
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$current") )
    [[ ${{#COMPREPLY[@]}} -gt 0 || "$current" == -* ]] || COMPREPLY=( $(compgen -f -- "$current") )
}}
complete -o filenames -F {function} {root.name}
"""


def _any_of(words: list[str]) -> str:
    return "|".join(f'"{word}"' for word in words)


def _fish(root: Command) -> str:
    lines = []
    for command in root.walk():
        path = command.path[1:]
        seen = " ".join(f"__fish_seen_subcommand_from {name};" for name in path)
        seen = seen.replace("; __", "; and __").rstrip(";")
        if command.subcommands:
            names = " ".join(sub.path[-1] for sub in command.subcommands)
            at = f"not __fish_seen_subcommand_from {names}"
            condition = f"{seen}; and {at}" if seen else at
            for sub in command.subcommands:
                lines.append(
                    f"complete -c {root.name} -n {_quoted(condition)} -f "
                    f"-a {sub.path[-1]} -d {_quoted(sub.brief)}"
                )
        lines += [_fish_option(root.name, seen, option) for option in command.options]
    return "\n".join(lines) + "\n"


def _fish_option(program: str, seen: str, option: Option) -> str:
    words = ["complete", "-c", program]
    words += ["-n", _quoted(seen or "__fish_use_subcommand")]
    for name in option.names:
        words += ["-l" if name.startswith("--") else "-s", name.lstrip("-")]
    if option.choices:
        words += ["-x", "-a", _quoted(" ".join(option.choices))]
    elif option.value:
        words.append("-r")
    return " ".join([*words, "-d", _quoted(option.help)])


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
