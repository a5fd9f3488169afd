"""From one kind of file to another, and what a folder or a file holds."""
