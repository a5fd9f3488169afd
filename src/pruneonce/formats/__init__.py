"""Bytes on disk: safetensors, packed files, scales, model folders, records. numpy alone; a file is never trusted."""
