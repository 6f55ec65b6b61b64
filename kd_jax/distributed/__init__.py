"""The devices and processes that a run is spread over: mesh, processes, signals."""
