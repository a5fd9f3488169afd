"""Packed files behind HTTP: what TEI, OpenAI, Jina, Cohere and KServe clients speak. No torch; extra `serve`.

Requests come in, JSON goes out. In order: what is refused (`limits`); the queue of a model and its thread
(`scheduler`), threads for text (`workers`); a model as requests see it (`served_model`); what it counts (`metrics`);
how errors are told (`refusal`); the bodies and routes of each contract (`route`, `tei`, `embeddings`, `ranking`,
`questions`, `kserve`), the document of them all (`openapi`) and the page for people (`page`); what they share: who may
ask, whether there is room (`server`); what surrounds them (`endpoint`); connections: deadlines, and refusals by the
head alone (`connection`); all of it as one application (`application`), and as a process (`process`).
docs/serving.md has the design, docs/security.md what is trusted.
"""
