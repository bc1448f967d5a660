"""usage: tussi_server.py SPOOL READY_FILE

A tussi server on the uploads/ and completed/ of a spool. It writes its address into READY_FILE
once it listens.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvicorn
from tussi import FilesystemStorage, TUSApp

spool, ready = Path(sys.argv[1]), Path(sys.argv[2])
app = TUSApp(
    storage=FilesystemStorage(directory=spool / 'uploads'),
    completed_dir=spool / 'completed',
    max_chunk_size=None,
)


async def main() -> None:
    listening = socket.create_server(('127.0.0.1', 0))
    host, port = listening.getsockname()
    unfinished = ready.with_name(ready.name + '.new')
    unfinished.write_text(f'{host}:{port}')
    os.rename(unfinished, ready)
    config = uvicorn.Config(app, lifespan='off', log_level='warning')
    await uvicorn.Server(config).serve(sockets=[listening])


asyncio.run(main())
