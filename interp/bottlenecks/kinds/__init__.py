"""The kinds of bottleneck that come with the package; a module is loaded when a kind of it is asked for."""
