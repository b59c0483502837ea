"""What one can have run: the methods that `Hive`, `AsyncHive` and ``hive.with_options(...)`` have in common.

    hive.submit(function, 1, key=2)
    hive.with_options(priority="high", verify=hm.Quorum(2, of=3)).submit(function, 1)
    careful = hive.with_options(max_retries=0, idempotent=False)

How tasks are run is said apart from what is run, so that a call looks like the call that it stands for, and options
can be named, kept and handed around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hivemind_p2p.errors import NotSerializableError
from hivemind_p2p.job import Job, JobList, new_job_id
from hivemind_p2p.mapped_jobs import MOST_SINGLE, Jobs, MappedJobs
from hivemind_p2p.tasks.options import ORDINARY, Options
from hivemind_p2p.tasks.references import collecting
from hivemind_p2p.types import Input, Link, Needs, SharedPart

if TYPE_CHECKING:
    from hivemind_p2p.ecosystem.executor import HiveExecutor
    from hivemind_p2p.tasks.spec import TaskSpec

T = TypeVar("T")

FUNCTION = "function/1"
"""The task type of Python functions."""

MAP = "map/1"
"""The task type of one Python function over many items."""


class TaskMethods:
    """Starts tasks; see the module."""

    @property
    def options(self) -> Options:
        """How tasks are run."""
        return ORDINARY

    def launch(self, job: Job[Any], spec: TaskSpec, options: Options) -> None:
        """Starts a task for a job; may be called from any thread.

        Raises:
            ConfigurationError: This hive is closed.
        """
        raise NotImplementedError

    def large_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments with references instead of large ones, where this thread may wait for their being put."""
        return args, kwargs

    def with_options(self, options: Options | None = None, /, **changes: Any) -> TasksWithOptions:
        """The same with other options: those of `hivemind_p2p.Options`, by name or as one.

        Example:
            >>> hive.with_options(priority="high", max_retries=0).submit(pow, 2, 10)  # doctest: +SKIP

        Raises:
            ConfigurationError: There is no such option, or it cannot have this value.
        """
        return TasksWithOptions(self, (options or self.options).but(**changes))

    def submit(self, function: Callable[..., T], /, *args: Any, needs: Needs | None = None, **kwargs: Any) -> Job[T]:
        """Starts ``function(*args, **kwargs)`` on some peer.

        Args:
            function: Any function that cloudpickle can pack, a lambda or one from a notebook cell included.
            *args: Its arguments. Large arrays and bytes that come again are put into the hive, as by ``hive.put``.
            needs: What it needs of the machine, where that is not what the options say.
            **kwargs: Its named arguments.

        Returns:
            A job; ``job.result()`` waits, ``await job`` waits in a cell.

        Raises:
            NotSerializableError: The function or an argument cannot be packed.
        """
        from hivemind_p2p.tasks.library.packing import pack_parts

        options = self.options
        job: Job[T] = new_job(function)
        given: Sequence[Any] = args
        named: Mapping[str, Any] = kwargs
        if (args or kwargs) and not options.keep:  # what was put is there only as long as this program
            given, named = self.large_arguments(args, kwargs)
        # Packed in this thread, so that a function that cannot travel fails in the line that submitted it.
        with collecting() as inputs:
            if options.trust == "pickle":
                from hivemind_p2p.tasks.library.pickled import pickled_result

                shared, payload = pack_parts(pickled_result, (function, *given), named)
            else:
                shared, payload = pack_parts(function, given, named)
        self.launch(job, spec_of(job.id, FUNCTION, payload, options, needs, shared, inputs), options)
        return job

    def map(
        self,
        function: Callable[[Any], T],
        items: Iterable[Any],
        *,
        needs: Needs | None = None,
        progress: bool = False,
    ) -> Jobs[T]:
        """Starts ``function(item)`` for each item.

        Very many items go in chunks, which are as long as the time that items take makes useful; their jobs are views.

        Args:
            function: Takes one item.
            items: What to call it with.
            needs: What each call needs of the machine.
            progress: Shows a progress bar (HTML in a notebook).

        Returns:
            The jobs, in the order of the items; ``jobs.results()`` waits for all.
        """
        every = list(items)
        jobs: Jobs[T]
        if len(every) > MOST_SINGLE and self.options.ordinary and self.options.idempotent:
            jobs = MappedJobs(self, function, every, needs)
        else:
            jobs = JobList(self.submit(function, item, needs=needs) for item in every)
        if progress:
            from hivemind_p2p.notebook.progress import watch_jobs

            watch_jobs(jobs)
        return jobs

    def run_type(self, task_type: str, payload: bytes, *, needs: Needs | None = None) -> Job[Any]:
        """Has a payload run by the task type of this name, on a peer that has it installed.

        Raises:
            TaskTypeError: That cannot be the name of a task type.
            NotSerializableError: The payload is larger than a task can be.
        """
        job = typed_job(task_type, payload)
        self.launch(job, spec_of(job.id, task_type, payload, self.options, needs), self.options)
        return job

    def command(
        self, arguments: Sequence[str], given: bytes = b"", *, needs: Needs | None = None
    ) -> Job[dict[str, Any]]:
        """Runs a program that peers have, without a shell; the result has status, output, errors and cut.

        Args:
            arguments: The program and its arguments, for example ``["sort", "-n"]``.
            given: What it reads from its standard input.
            needs: What it needs of the machine.

        Raises:
            NotSerializableError: That is no command, or it is larger than a task can be.
        """
        from hivemind_p2p.tasks.library.command import NAME, pack

        return self.run_type(NAME, pack(arguments, given), needs=needs)

    def bundle(self, path: Path | str, *, needs: Needs | None = None) -> Job[dict[str, Any]]:
        """Runs a folder or zip with a ``main.py``; the result has status and zip (output folder, stdout, log).

        Raises:
            ArchiveError: It is no bundle.
        """
        from hivemind_p2p.tasks.library.bundle import NAME, pack

        return self.run_type(NAME, pack(Path(path)), needs=needs)

    def wasm(
        self,
        module: Path | str | bytes,
        arguments: Sequence[str] = (),
        given: bytes = b"",
        *,
        function: str = "",
        parameters: Sequence[float] = (),
        fuel: int | None = None,
        needs: Needs | None = None,
    ) -> Job[dict[str, Any]]:
        """Runs a WebAssembly module on a peer that has wasmtime; the same input gives the same bytes on all of them.

        Args:
            module: The path of a ``.wasm`` or ``.wat`` file, or its bytes.
            arguments: What a WASI program is called with, besides its name.
            given: What it reads from its standard input.
            function: The exported function to call; empty for the program's own start.
            parameters: Numbers for that function.
            fuel: What it may use up, about one unit an instruction; ten thousand million by default.
            needs: What it needs of the machine.

        Returns:
            A job; its result has status, output, errors, cut, value and fuel.

        Raises:
            NotSerializableError: That is no module, or it is larger than a task can be.
        """
        from hivemind_p2p.tasks.library import wasm

        wanted = needs or self.options.needs
        data = module if isinstance(module, bytes) else Path(module).expanduser().read_bytes()
        payload = wasm.pack(
            data,
            arguments,
            given,
            function=function,
            parameters=parameters,
            fuel=wasm.FUEL if fuel is None else fuel,
            memory=wanted.memory_bytes,
        )
        return self.run_type(wasm.NAME, payload, needs=wanted)

    def executor(self) -> HiveExecutor:
        """The hive as a `concurrent.futures.Executor`."""
        from hivemind_p2p.ecosystem.executor import HiveExecutor

        return HiveExecutor(self)

    def remote(self, function: Callable[..., Any] | None = None, /, **changes: Any) -> Any:
        """Makes a function one that can be submitted to this hive: ``@hive.remote``, or with options."""
        from hivemind_p2p.ecosystem.remote import RemoteFunction

        if function is None:
            return lambda decorated: RemoteFunction(decorated, changes, self)
        return RemoteFunction(function, changes, self)

    def dask(self, dsk: Mapping[Any, Any], keys: Any, **kwargs: Any) -> Any:
        """A scheduler for Dask: ``dask.compute(..., scheduler=hive.dask)``. It calls this; nobody else needs to."""
        from hivemind_p2p.ecosystem.dask_scheduler import get

        workers = kwargs.pop("num_workers", None) or 2 * self.cores()
        return get(self, workers, dsk, keys, **kwargs)

    def cores(self) -> int:
        """Cores that the hive lends to functions now, this program's own peer left out; at least one."""
        raise NotImplementedError


class TasksWithOptions(TaskMethods):
    """A hive, and how it is to run tasks. Made by ``hive.with_options(...)``."""

    def __init__(self, hive: TaskMethods, options: Options) -> None:
        self._hive = hive
        self._options = options

    @property
    def options(self) -> Options:
        """How tasks are run."""
        return self._options

    def launch(self, job: Job[Any], spec: TaskSpec, options: Options) -> None:
        """Starts a task for a job."""
        self._hive.launch(job, spec, options)

    def large_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments with references instead of large ones."""
        return self._hive.large_arguments(args, kwargs)

    def cores(self) -> int:
        """Cores that the hive lends to functions now; at least one."""
        return self._hive.cores()

    def __repr__(self) -> str:
        return f"<{self._hive!r} with {self._options}>"


def spec_of(
    task_id: str,
    task_type: str,
    payload: bytes,
    options: Options,
    needs: Needs | None = None,
    shared: SharedPart | None = None,
    inputs: Mapping[Link, int] | None = None,
) -> TaskSpec:
    """A task under some options."""
    from hivemind_p2p.tasks.spec import TaskSpec

    return TaskSpec(
        task_id,
        task_type,
        payload,
        needs or options.needs,
        options.limit,
        shared,
        options.idempotent,
        options.level,
        options.stream,
        options.max_retries,
        options.deadline,
        keep=options.keep,
        inputs=tuple(Input(*each) for each in inputs.items()) if inputs else (),
    )


def new_job(function: Callable[..., Any]) -> Job[Any]:
    """A job with an id of its own, named after its function."""
    from hivemind_p2p.notebook.tracebacks import source_file

    return Job(new_job_id(), getattr(function, "__qualname__", type(function).__name__), source_file(function))


def typed_job(task_type: str, payload: bytes) -> Job[Any]:
    """A job with an id of its own, named after its task type.

    Raises:
        TaskTypeError: That cannot be the name of a task type.
        NotSerializableError: The payload is larger than a task can be.
    """
    from hivemind_p2p.tasks.plugins import check_name
    from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

    check_name(task_type)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise NotSerializableError(
            f"cannot send the payload: it has {len(payload):,} bytes, and a task {MAX_PAYLOAD_BYTES:,}",
            hint="Split the data into smaller tasks.",
        )
    return Job(new_job_id(), task_type)
