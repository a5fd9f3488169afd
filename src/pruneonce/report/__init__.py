"""Reports: run folders, studies and benchmark records as a page of Markdown and a page of HTML. Trains nothing."""
