"""usage: tuspy_upload.py ENDPOINT FILE FILENAME

Uploads FILE in pieces of 64 MiB (a quarter of the file if that is less), each taken up again
after every failure, and prints the upload's URL.
"""

import json
import os
import sys
import time

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

endpoint, file, filename = sys.argv[1:]
size = os.path.getsize(file)
piece = max(1, min(64 << 20, size // 4))
client = TusClient(endpoint)

uploader = None
for attempt in range(1000):
    try:
        if uploader is None:
            # tuspy does not repeat a creation that failed: the next turn of the loop does.
            created = client.uploader(
                file, chunk_size=piece, metadata={'filename': filename}, retries=1000, retry_delay=0.05
            )
            created.set_url(created.create_url())
            uploader = created
        uploader.upload()
        break
    except TusCommunicationError as error:
        print(f'attempt {attempt}: {error}', file=sys.stderr)
        time.sleep(0.05)
else:
    sys.exit('gave up')

print(json.dumps({'url': uploader.url}))
