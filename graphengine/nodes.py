"""In a checkout, `graphengine.nodes` is the folder `nodes/` beside this package; a wheel carries the folder itself."""

from pathlib import Path

__path__ = [str(Path(__file__).parent.parent / "nodes")]
