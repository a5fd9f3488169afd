"""One training loop, and what it needs.

In come a model, examples and a recipe's sections; out come trained weights, checkpoints and a log. In order: models
(`language_model`, `encoder_model`, `task_model`, `dropout`, `teacher`, `teacher_answers`); what is minimised
(`distillation`, `losses`, `heads` per kind of task, `objectives`); the loop (`batching`, `trainer`, `checkpoints`,
`processes`); `callbacks` for a loop that is not ours.
"""
