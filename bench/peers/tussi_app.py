"""tussi behind uvicorn, as its documentation shows; no limit on a chunk, fsync by TUSSI_FSYNC."""
import os
from pathlib import Path

from tussi import FilesystemStorage, TUSApp

root = Path(os.environ['TUSSI_DIR'])
app = TUSApp(
    storage=FilesystemStorage(directory=root / 'uploads', fsync=os.environ.get('TUSSI_FSYNC') == '1'),
    completed_dir=root / 'completed',
    max_chunk_size=None,
)
