"""usage: tussi_worker.py SPOOL OUT COUNT

A tussi worker: takes COUNT uploads from the completed/ of a spool, one after the other, saves
each and its record in OUT under the client's file name, and prints what it took.
"""

import asyncio
import json
import sys
from pathlib import Path

from tussi import FilesystemStorage, TUSApp

spool, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


async def main() -> None:
    app = TUSApp(
        storage=FilesystemStorage(directory=spool / 'uploads'),
        completed_dir=spool / 'completed',
    )
    for _ in range(count):
        async with app.wait_for_file(timeout=60, poll_interval=0.1) as upload:
            record = upload.record
            filename = record.metadata.get('filename', upload.name)
            upload.save(out / filename)
            upload.save_record(out / f'{filename}.meta')
            taken = {
                'id': upload.name,
                'filename': filename,
                'length': record.length,
                'offset': record.offset,
                'finished': record.finished_at is not None,
                'duration': record.duration.total_seconds() if record.duration else None,
            }
            print(json.dumps(taken))


asyncio.run(main())
