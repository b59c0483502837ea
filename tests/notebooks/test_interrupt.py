"""Interrupting the kernel while a cell awaits a job cancels the job, though nothing else goes on in the kernel."""

import os

import pytest
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from jupyter_client.manager import KernelManager

from tests.notebooks.conftest import ROOT

# The text comes from the loop that waits, so that it does wait when the interrupt comes.
CELL = """
import asyncio
from hivemind_p2p.job import Job
job = Job("1")
asyncio.get_running_loop().call_later(0.1, print, "waits")
await job
"""


@pytest.mark.timeout(120)
def test_an_interrupt_cancels_the_awaited_job(tmp_path):
    kernel_manager = KernelManager(kernel_name=NATIVE_KERNEL_NAME, connection_file=str(tmp_path / "connection.json"))
    kernel_manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)})
    client = kernel_manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        request = client.execute(CELL)
        until_printed(client, "waits")
        kernel_manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=20)
        assert reply["parent_header"]["msg_id"] == request
        assert reply["content"]["ename"] == "CancelledError"
        reply = client.execute_interactive("", user_expressions={"state": "job.state"}, timeout=20)
        assert reply["content"]["user_expressions"]["state"]["data"]["text/plain"] == "'CANCELLED'"
    finally:
        client.stop_channels()
        kernel_manager.shutdown_kernel(now=True)


def until_printed(client, text):
    while True:
        message = client.get_iopub_msg(timeout=30)
        if message["msg_type"] == "stream" and text in message["content"]["text"]:
            return
