"""Why a program is not attached to a target: few, named, and the same in logs, metrics and states."""

from enum import StrEnum


class Reason(StrEnum):
    """Values of the label `reason` of attach_failures_total."""

    COMPILE = "compile"  # clang rejects the code
    STACK_SIZE = "stack_size"  # more than 512 bytes of BPF stack
    VERIFIER = "verifier"  # the kernel rejects the bytecode
    HEADERS = "headers"  # no kernel headers to compile with
    UNKNOWN_TABLE = "unknown_table"  # a metric names a map that the code does not define
    UNKNOWN_FUNCTION = "unknown_function"  # a probe names a function that the code does not define
    KEY_SIZE = "key_size"  # labels and key differ in size
    MAP_TYPE = "map_type"  # a map that metrics cannot be read from
    PROBE_NOT_FOUND = "probe_not_found"  # no mapped file has that USDT probe
    PROBE_AMBIGUOUS = "probe_ambiguous"  # more than one has it
    PROBE_DISABLED = "probe_disabled"  # the target has it and was not told to fire it
    SYMBOL_NOT_FOUND = "symbol_not_found"
    FILE_NOT_FOUND = "file_not_found"  # a probe's file is not mapped in the target, or cannot be opened
    STALE_FILE = "stale_file"  # the mapped file was replaced on disk and cannot be reached any more
    GO_URETPROBE = "go_uretprobe"  # would crash the target
    RED_ZONE = "red_zone"  # the kernel would overwrite the target's variables
    OTHER_TRACER = "other_tracer"  # somebody else counts the same probe with another semaphore
    LEADER_EXITED = "leader_exited"  # the target's first thread is a zombie: a link would count nothing
    PERMISSION = "permission"
    DESCRIPTORS = "descriptors"  # RLIMIT_NOFILE
    MEMORY = "memory"
    BUILDER_DIED = "builder_died"
    BUILDER_TIMEOUT = "builder_timeout"
    WORKER_DIED = "worker_died"
    WORKER_TIMEOUT = "worker_timeout"
    TARGET_CHANGED = "target_changed"  # it executed another program meanwhile
    ATTACH = "attach"  # any other error of the kernel


# Of the program and the binary, not of the moment: trying again would give the same answer.
PERMANENT = frozenset(
    {
        Reason.COMPILE,
        Reason.STACK_SIZE,
        Reason.VERIFIER,
        Reason.UNKNOWN_TABLE,
        Reason.UNKNOWN_FUNCTION,
        Reason.KEY_SIZE,
        Reason.MAP_TYPE,
        Reason.PROBE_AMBIGUOUS,
        Reason.GO_URETPROBE,
        Reason.RED_ZONE,
    }
)

# Of what the target has mapped: trying again gives another answer only when it maps something else.
MISSING = frozenset(
    {
        Reason.PROBE_NOT_FOUND,
        Reason.PROBE_DISABLED,
        Reason.SYMBOL_NOT_FOUND,
        Reason.FILE_NOT_FOUND,
    }
)


class AttachError(Exception):
    """A program cannot be built for, loaded for or attached to a target; `diagnostics` are the tool's own words."""

    def __init__(self, reason: Reason, message: str, diagnostics: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.diagnostics = diagnostics
