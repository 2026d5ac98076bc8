"""The command line: one thin file a command, each parsing, calling the library and rendering."""
