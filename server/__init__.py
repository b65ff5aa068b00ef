"""GraphEngine over HTTP: start with `app`, or with `graphengine serve`."""
