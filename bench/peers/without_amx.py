"""Refuses AMX to this process and to all that it starts, as if the processor had none."""

import ctypes
import errno
import os
from pathlib import Path

HOOKS = Path(__file__).with_name("vllm_without_amx")
VLLM_ENVIRONMENT = {"PYTHONPATH": str(HOOKS), "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
"""vLLM asks the processor only, and would run into the refusal."""

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM = 158, 0x1023  # x86-64: how a process asks for AMX's registers
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in seccomp_data
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF
ALLOW, FAIL = 0x7FFF0000, 0x00050000


class Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


def refuse_amx() -> None:
    """Linux on x86-64 only; cannot be taken back. Raises OSError.

    See seccomp(2) and the kernel's Documentation/arch/x86/xstate.rst."""
    instructions = (Instruction * 6)(
        Instruction(LOAD, 0, 0, NUMBER),
        Instruction(JUMP_IF_EQUAL, 0, 3, ARCH_PRCTL),
        Instruction(LOAD, 0, 0, FIRST_ARGUMENT),
        Instruction(JUMP_IF_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
        Instruction(RETURN, 0, 0, FAIL | errno.EPERM),
        Instruction(RETURN, 0, 0, ALLOW),
    )
    program = Filter(len(instructions), instructions)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))


def _prctl(option: int, *arguments: object) -> None:
    padding = [ctypes.c_ulong(0)] * (4 - len(arguments))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, *arguments, *padding) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
