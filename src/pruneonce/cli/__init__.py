"""The command line: each command parses, calls one library function and prints.

In: words. Out: text, JSON with --json, and exit code 0, 1 (it failed) or 2 (wrong usage). Nothing imports this.
Order: app (the list of commands, errors, version), then a file per subject: data, train, study, run, convert, report,
bench; options that several share, and show for everything that is printed.
"""
