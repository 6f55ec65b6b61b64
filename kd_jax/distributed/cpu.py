"""What the system says of this machine's processor."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def cpu_info() -> dict[str, str]:
    """The fields of the first processor by name ("model name", "flags"); {} where the system does not say."""
    try:
        first = CPU_INFO.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): text.strip() for name, _, text in fields}
