"""Run folders, studies and benchmark records as a page of Markdown and a page of HTML. Trains nothing.

Order: collect (everything that was read), tables, figures (all pictures; crossover and latency are two of them, charts
draws them), then markdown, page (HTML) and picture (SVG), and write (the files).
"""
