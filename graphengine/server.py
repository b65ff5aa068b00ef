"""In a checkout, `graphengine.server` is the folder `server/` beside this package; a wheel carries the folder itself."""

from pathlib import Path

__path__ = [str(Path(__file__).parent.parent / "server")]
