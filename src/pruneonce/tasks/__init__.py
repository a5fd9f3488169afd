"""What each kind of task reads, decodes and scores: numpy only, shared by training and engine."""
