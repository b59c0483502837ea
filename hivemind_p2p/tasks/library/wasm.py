"""The task type ``wasm/1``: a WebAssembly module, run by wasmtime inside the sandboxed child: a wall within the walls.

The module sees nothing of the peer: no file, no network, no environment; a clock and chance come from WASI. It gets
arguments and an input, and writes an output and errors, or one of its functions is called with numbers. **Fuel** counts
what it executes, so that it ends after the same work on every machine, and its memory is bounded by what the task asked
for. The same module with the same input computes the same everywhere, unless it asks for the clock or for chance.

wasmtime is an extra (``pip install hivemind-p2p[wasm]``), for it is 30 MB of machine code that most callers never need;
a peer without it does not offer this type.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.errors import HivemindError, NotSerializableError, TaskFailedError, TaskMemoryError
from hivemind_p2p.tasks import reading, values
from hivemind_p2p.tasks.library.command import most_kept, problem_with
from hivemind_p2p.tasks.library.following import following
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    import wasmtime

NAME: Final = "wasm/1"

FUEL: Final = 10_000_000_000
"""What a module may use up unless the caller says otherwise: about one unit an instruction, some 10 to 30 s of them."""

MOST_FUEL: Final = 1 << 62

MOST_PARAMETERS: Final = 1000

KEPT_MODULES: Final = 8
"""Compiled modules that a child keeps for its caller's next tasks: compiling takes far longer than a short run."""

TABLE_ELEMENTS: Final = 100_000
_MAGIC: Final = b"\0asm"
_KEYS: Final = {"module", "arguments", "input", "function", "parameters", "fuel", "memory"}


def is_here() -> bool:
    """Whether this peer can run such tasks: wasmtime is installed."""
    return importlib.util.find_spec("wasmtime") is not None


def pack(
    module: bytes,
    arguments: Sequence[str] = (),
    given: bytes = b"",
    *,
    function: str = "",
    parameters: Sequence[float] = (),
    fuel: int = FUEL,
    memory: int,
) -> bytes:
    """A module and what to do with it as the payload of a task.

    Args:
        module: WebAssembly in its binary form, or its text form (``(module ...)``).
        arguments: What a WASI program is called with, besides its name.
        given: What it reads from its standard input.
        function: The exported function to call; empty for the program's own start.
        parameters: Numbers for that function.
        fuel: What it may use up, about one unit an instruction.
        memory: Bytes of memory that it may have.

    Raises:
        NotSerializableError: That is no module, or it is larger than a task can be.
    """
    packed = {
        "module": bytes(module),
        "arguments": list(arguments),
        "input": bytes(given),
        "function": function,
        "parameters": list(parameters),
        "fuel": fuel,
        "memory": memory,
    }
    if problem := _problem(packed):
        raise NotSerializableError(f"cannot send the module: {problem}", hint="Pass the path or the bytes of a .wasm.")
    try:
        return values.encode(packed, name="module", max_bytes=MAX_PAYLOAD_BYTES)
    except HivemindError as error:
        raise NotSerializableError(f"cannot send the module: {error.message}") from error


def _problem(packed: dict[str, Any]) -> str:
    """What is wrong with a packed task; empty if nothing is."""
    module, parameters = packed["module"], packed["parameters"]
    if not isinstance(module, bytes) or not (module.startswith(_MAGIC) or module.lstrip().startswith(b"(module")):
        return "it is neither WebAssembly nor its text form"
    if not isinstance(packed["function"], str):
        return "the function's name is no text"
    numbers = isinstance(parameters, list) and all(type(each) in (int, float) for each in parameters)
    if not numbers or len(parameters) > MOST_PARAMETERS:
        return f"its parameters are not at most {MOST_PARAMETERS} numbers"
    for name, most in (("fuel", MOST_FUEL), ("memory", MOST_FUEL)):
        if type(packed[name]) is not int or not 0 < packed[name] <= most:
            return f"the {name} is no number above zero"
    if not isinstance(packed["arguments"], list):
        return "its arguments are no list"
    return problem_with(["module.wasm", *packed["arguments"]], packed["input"])


class WasmTask:
    """Runs what `pack` packed."""

    name = NAME

    def __init__(self) -> None:
        self._engine: wasmtime.Engine | None = None
        self._modules: OrderedDict[bytes, wasmtime.Module] = OrderedDict()

    def run(self, payload: memoryview) -> dict[str, Any]:
        """Runs the module to its end. In the sandboxed child only.

        Returns:
            ``status`` (what the program exited with), ``output`` and ``errors`` as bytes, ``cut`` (whether the
            beginning of one of them is missing), ``value`` (what the function returned; a list for several), ``fuel``
            (what was used).

        Raises:
            TaskFailedError: It is no module, lacks the function, trapped, or used up its fuel.
            TaskMemoryError: It asked for more memory than it may have.
        """
        packed = _unpack(payload)
        import wasmtime

        try:
            with tempfile.TemporaryDirectory(prefix="wasm-") as folder:
                return self._run(packed, Path(folder))
        except wasmtime.Trap as trap:
            raise _trapped(trap) from None
        except wasmtime.WasmtimeError as error:
            text = str(error)
            if "memory" in text and "limit" in text:
                raise TaskMemoryError(f"the module asked for more memory than {packed['memory']:,} bytes") from None
            raise TaskFailedError(f"the module cannot be run: {text[:2000]}") from None

    def _run(self, packed: dict[str, Any], folder: Path) -> dict[str, Any]:
        import wasmtime

        engine = self._get_engine()
        store = wasmtime.Store(engine)
        store.set_limits(packed["memory"], TABLE_ELEMENTS, 1, 4, 1)
        store.set_fuel(packed["fuel"])
        store.set_wasi(_wasi(packed, folder))
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        status, value = 0, None
        try:
            instance = linker.instantiate(store, self._module(packed["module"]))
            with following(folder / "output", folder / "errors"):
                value = _call(store, instance, packed["function"], packed["parameters"])
        except wasmtime.ExitTrap as ended:
            status = ended.code
        output, output_cut = _end_of(folder / "output")
        errors, errors_cut = _end_of(folder / "errors")
        return {
            "status": status,
            "output": output,
            "errors": errors,
            "cut": output_cut or errors_cut,
            "value": value,
            "fuel": packed["fuel"] - store.get_fuel(),
        }

    def _get_engine(self) -> wasmtime.Engine:
        if self._engine is None:
            import wasmtime

            config = wasmtime.Config()
            config.consume_fuel = True
            config.parallel_compilation = False  # a child that keeps threads counts as one that left something running
            config.cranelift_nan_canonicalization = True  # the same bits everywhere
            config.wasm_relaxed_simd_deterministic = True
            config.wasm_threads = False
            config.max_wasm_stack = 1 << 20
            self._engine = wasmtime.Engine(config)
        return self._engine

    def _module(self, data: bytes) -> wasmtime.Module:
        import wasmtime

        key = hashlib.sha256(data).digest()
        module = self._modules.pop(key, None)
        if module is None:
            binary = data if data.startswith(_MAGIC) else bytes(wasmtime.wat2wasm(data))
            module = wasmtime.Module(self._get_engine(), binary)
        self._modules[key] = module
        while len(self._modules) > KEPT_MODULES:
            self._modules.popitem(last=False)
        return module


def _wasi(packed: dict[str, Any], folder: Path) -> wasmtime.WasiConfig:
    """No folder, no environment: only arguments and three files, which the module does not see as such."""
    import wasmtime

    (folder / "input").write_bytes(packed["input"])
    for name in ("output", "errors"):
        (folder / name).touch()
    config = wasmtime.WasiConfig()
    config.argv = ["module.wasm", *packed["arguments"]]
    config.stdin_file = str(folder / "input")
    config.stdout_file = str(folder / "output")
    config.stderr_file = str(folder / "errors")
    return config


def _call(store: wasmtime.Store, instance: wasmtime.Instance, name: str, parameters: list[float]) -> Any:
    import wasmtime

    function = instance.exports(store).get(name or "_start")
    if not isinstance(function, wasmtime.Func):
        raise TaskFailedError(
            f"the module exports no function {name or '_start'!r}", hint="Name one of its own with function=..."
        )
    wanted = [str(kind) for kind in function.type(store).params]
    if len(wanted) != len(parameters):
        raise TaskFailedError(f"{name!r} takes {len(wanted)} numbers, and was given {len(parameters)}")
    given = [
        float(value) if kind in ("f32", "f64") else int(value) for kind, value in zip(wanted, parameters, strict=True)
    ]
    return function(store, *given)


def _trapped(trap: wasmtime.Trap) -> HivemindError:
    where, _, why = str(trap.message).rpartition("wasm trap: ")
    text = f"{why}\n{where}".strip()
    if "fuel" in why:
        return TaskFailedError("the module used up its fuel", hint="Allow more with fuel=...")
    return TaskFailedError(f"the module trapped: {text[:2000]}")


def _end_of(path: Path) -> tuple[bytes, bool]:
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, length - most_kept()))
        return file.read(), length > most_kept()


def _unpack(payload: memoryview) -> dict[str, Any]:
    try:
        packed = reading.decode(payload, max_bytes=MAX_PAYLOAD_BYTES)
    except HivemindError as error:
        raise TaskFailedError(f"the payload is no module: {error.message}") from error
    if not isinstance(packed, dict) or packed.keys() != _KEYS:
        raise TaskFailedError("the payload is no module: it holds something else")
    if problem := _problem(packed):
        raise TaskFailedError(f"the payload is no module: {problem}")
    return packed
